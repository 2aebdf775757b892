from __future__ import annotations

import pytest

from headrace.core.errors import ConfigError
from headrace.simulator.synthetic import WORKLOADS, synthesize
from headrace.simulator.trace import TraceRequest
from headrace.simulator.workload import block_keys
from headrace.twin.ideal import ideal_hit_ratio


@pytest.mark.parametrize("name", sorted(WORKLOADS))
def test_a_workload_is_ordered_bounded_and_whole(name: str) -> None:
    requests = synthesize(name, 3, 5.0, 300.0)
    arrivals = [request.arrival_s for request in requests]
    assert arrivals == sorted(arrivals)
    assert 0.0 <= arrivals[0] <= arrivals[-1] < 300.0
    for request in requests:
        assert request.prompt_tokens >= 1
        assert request.output_tokens >= 1
        runs = -(-request.prompt_tokens // request.hash_block_tokens)
        assert len(request.hash_ids) == runs


@pytest.mark.parametrize("name", sorted(WORKLOADS))
def test_the_same_seed_gives_the_same_requests(name: str) -> None:
    assert synthesize(name, 3, 5.0, 60.0) == synthesize(name, 3, 5.0, 60.0)
    assert synthesize(name, 3, 5.0, 60.0) != synthesize(name, 4, 5.0, 60.0)


@pytest.mark.parametrize("name", sorted(WORKLOADS))
def test_the_rate_is_about_what_was_asked(name: str) -> None:
    requests = synthesize(name, 1, 2.0, 4000.0)
    assert len(requests) / 4000.0 == pytest.approx(2.0, rel=0.15)


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [("agents", 0.88, 0.97), ("conversation", 0.7, 0.95), ("code", 0.3, 0.6)],
)
def test_prefixes_are_shared_as_much_as_the_kind_of_traffic_implies(
    name: str, least: float, most: float
) -> None:
    assert least <= ideal_hit_ratio(synthesize(name, 1, 5.0, 600.0)) <= most


def test_a_later_turn_begins_with_all_that_was_said_before() -> None:
    turns: dict[str | None, list[TraceRequest]] = {}
    for request in synthesize("conversation", 1, 5.0, 300.0):
        turns.setdefault(request.session, []).append(request)
    compared = 0
    for earlier, later in ((t[0], t[1]) for t in turns.values() if len(t) > 1):
        said = earlier.prompt_tokens + earlier.output_tokens
        stream = (earlier.hash_ids + earlier.output_hash_ids)[: said // 16]
        assert block_keys(later, 1, 16)[: said // 16] == list(stream)
        compared += 1
    assert compared > 20


def test_code_comes_in_bursts_and_conversation_does_not() -> None:
    def dispersion(name: str) -> float:
        counts = [0] * 200
        for request in synthesize(name, 1, 3.0, 2000.0):
            counts[int(request.arrival_s // 10)] += 1
        mean = sum(counts) / len(counts)
        return sum((count - mean) ** 2 for count in counts) / len(counts) / mean

    assert dispersion("bursts") > 4 * dispersion("conversation")
    assert dispersion("code") > 3 * dispersion("conversation")


def test_bad_names_and_numbers_are_refused() -> None:
    with pytest.raises(ConfigError, match="known: agents, bursts, code, conversation"):
        synthesize("chat", 1, 1.0, 1.0)
    with pytest.raises(ConfigError, match="positive"):
        synthesize("code", 1, 0.0, 1.0)
