from __future__ import annotations

import pytest

from bench.routing_real.workload import BEFORE_S, mixed, system_tokens
from headrace.simulator.synthetic import WORKLOADS
from headrace.simulator.trace import TraceRequest


def sessions(workload: list[TraceRequest], kind: str) -> list[TraceRequest]:
    return [each for each in workload if (each.session or "").startswith(kind)]


def test_both_kinds_of_sessions_come_in_order_of_arrival_within_the_time_asked_for() -> None:
    workload = mixed(6.0, 50.0, seed=1)
    arrivals = [each.arrival_s for each in workload]
    assert arrivals == sorted(arrivals)
    assert arrivals[0] >= 0.0
    assert arrivals[-1] < 50.0
    assert sessions(workload, "conversation")
    assert sessions(workload, "agents")


def test_the_rate_is_what_was_asked_for_from_the_first_seconds_on() -> None:
    counts = [len(mixed(6.0, 20.0, seed)) for seed in range(10)]
    assert sum(counts) == pytest.approx(10 * 6.0 * 20.0, rel=0.2)


def test_kinds_share_no_text_and_sessions_of_one_kind_share_their_system_prompts() -> None:
    workload = mixed(6.0, 50.0, seed=1)
    chats = {each.hash_ids[0] for each in sessions(workload, "conversation")}
    agents = {each.hash_ids[0] for each in sessions(workload, "agents")}
    assert not chats & agents
    assert len(chats) <= WORKLOADS["conversation"].preambles
    assert len(agents) <= WORKLOADS["agents"].preambles


def test_the_same_seed_gives_the_same_requests_and_another_gives_others() -> None:
    assert mixed(3.0, 20.0, seed=1) == mixed(3.0, 20.0, seed=1)
    assert mixed(3.0, 20.0, seed=1) != mixed(3.0, 20.0, seed=2)


def test_sessions_that_began_before_the_cut_go_on_after_it() -> None:
    early = [each for each in mixed(6.0, 10.0, seed=1) if each.arrival_s < 5.0]
    longest = max(sessions(early, "agents"), key=lambda each: each.prompt_tokens)
    assert longest.prompt_tokens > 2 * system_tokens(longest)
    assert BEFORE_S > 0


@pytest.mark.parametrize(
    ("session", "prompt_tokens", "expected"),
    [("agents-7", 6_000, 4_096), ("conversation-3", 900, 900), ("other-1", 50, 0), (None, 50, 0)],
)
def test_a_system_prompt_is_as_long_as_its_workload_says_and_never_longer_than_the_prompt(
    session: str | None, prompt_tokens: int, expected: int
) -> None:
    request = TraceRequest(0.0, prompt_tokens, 10, session=session)
    assert system_tokens(request) == expected
