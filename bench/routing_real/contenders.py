"""How each contender is started over the same engines; rivals with their defaults, policy aside."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.gateway.process import free_port
from bench.gateway.rivals import install
from bench.routing_real.words import tokenizer_files

OURS: Final = "headrace"
RIVALS: Final = ("smg.cache_aware", "vllm-router.cache_aware", "vllm-router.kv_aware")
NAMES: Final = (OURS, *RIVALS)


@dataclass(frozen=True, slots=True)
class Engine:
    """One simulated engine: its URL and the addresses of its KV events."""

    url: str
    kv_events: str
    kv_replay: str


@dataclass(frozen=True, slots=True)
class Contender:
    """One router under test.

    Attributes:
        name: Prefix of its figures.
        argv: How to start it on a port over engines.
        ready_path: A path that answers 200 once it serves.
        ready_text: What it prints once it knows every engine; empty where that is the same.

    """

    name: str
    argv: Callable[[int, Sequence[Engine]], list[str]]
    ready_path: str
    ready_text: str = ""


def contenders(cache: Path, *, model: str, engines: int) -> dict[str, Contender]:
    """Install the rivals into environments of their own below ``cache`` and return all four."""
    smg, vllm_router = (str(install(name, cache)) for name in ("smg", "vllm-router"))
    words = write_tokenizer(cache / "simulated-tokenizer")

    def ours(port: int, engines: Sequence[Engine]) -> list[str]:
        file = cache / "headrace-gateway.yaml"
        file.write_text(json.dumps(our_settings(engines)))  # JSON is YAML
        options = ["--config", str(file), "--port", str(port)]
        return [sys.executable, "-m", "headrace.cli", "gateway", *options]

    def rival(program: Sequence[str], policy: str) -> Callable[[int, Sequence[Engine]], list[str]]:
        return lambda port, engines: [
            *program,
            *("--host", "127.0.0.1", "--port", str(port)),
            *("--worker-urls", *(engine.url for engine in engines)),
            *("--policy", policy, "--prometheus-port", str(free_port())),
        ]

    def kv_aware(port: int, engines: Sequence[Engine]) -> list[str]:
        # `env` for the one setting that has no flag
        program = ["env", f"VLLM_ROUTER_TOKENIZER={words}", vllm_router]
        return rival(program, "kv_aware")(port, engines) + event_options(engines, model)

    all_ready = f"{engines} of {engines} endpoints are ready"
    made = [
        Contender(OURS, ours, "/ready", all_ready),
        Contender(RIVALS[0], rival([smg, "launch"], "cache_aware"), "/health"),
        Contender(RIVALS[1], rival([vllm_router], "cache_aware"), "/health"),
        Contender(RIVALS[2], kv_aware, "/health"),
    ]
    return {contender.name: contender for contender in made}


def our_settings(engines: Sequence[Engine]) -> dict[str, object]:
    """Return the settings of ``headrace gateway``: the engines, all else as it comes."""
    return {
        "endpoints": [
            {
                "url": engine.url,
                "simulated": True,
                "kv_events": {"events": engine.kv_events, "replay": engine.kv_replay},
            }
            for engine in engines
        ]
    }


def event_options(engines: Sequence[Engine], model: str) -> list[str]:
    """Return the options that tell vllm-router where KV events come from.

    It finds them by itself only where workers answer ``/get_server_info``, which vLLM's do not.
    """
    options = ["--kv-event-model", model]
    for engine in engines:
        options += ("--kv-event-source", f"{engine.url}={engine.kv_events}")
        options += ("--kv-event-replay-source", f"{engine.url}={engine.kv_replay}")
    return options


def write_tokenizer(folder: Path) -> Path:
    """Write the files of the engines' tokenizer; return their folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in tokenizer_files().items():
        (folder / name).write_text(text)
    return Path(os.path.abspath(folder))
