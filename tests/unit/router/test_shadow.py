"""What a second policy would have done, counted beside what was done."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.core.errors import ConfigError
from router.catalog import POLICIES, make_policy
from router.decide import Decision, decide, tie_rng
from router.policy import Candidate
from router.shadow import KEPT, Shadow
from tests.support.recorded import candidate, candidates, request

SEEN = (
    candidate("a", cached_tokens=900.0, inflight=3, decoding=3),
    candidate("b", cached_tokens=100.0, inflight=1),
)


def decided(name: str, seen: tuple[Candidate, ...], policy: str = "expected-ttft") -> Decision:
    placed = request(name)
    return decide(placed, seen, make_policy(policy), tie_rng(0, placed.request_id, 0))


def test_another_choice_is_counted_with_what_it_would_have_cost() -> None:
    shadow, decision = Shadow("least-requests", 0), decided("r1", SEEN)
    shadow.observe(request("r1"), SEEN, decision)
    report = shadow.report()
    assert (report.policy, report.unit) == ("least-requests", "ms")
    assert (report.agreed, report.disagreed, report.prompt_tokens) == (0, 1, 1_000)
    assert (report.ours_cached_tokens, report.theirs_cached_tokens) == (900.0, 100.0)
    best, other = decision.ranking
    assert report.cost_difference == other.cost - best.cost > 0
    (latest,) = report.latest
    assert (latest.request_id, latest.ours, latest.theirs) == ("r1", "a", "b")
    assert latest.cost_difference == report.cost_difference


def test_the_same_choice_is_counted_as_agreement() -> None:
    seen = (candidate("a", inflight=0), candidate("b", inflight=2, queued_ms=50.0))
    shadow = Shadow("least-requests", 0)
    shadow.observe(request("r1"), seen, decided("r1", seen))
    report = shadow.report()
    assert (report.agreed, report.disagreed, report.cost_difference) == (1, 0, 0.0)
    assert report.latest == ()


def test_only_the_newest_disagreements_are_kept() -> None:
    shadow = Shadow("least-requests", 0)
    for i in range(KEPT + 5):
        shadow.observe(request(f"r{i}"), SEEN, decided(f"r{i}", SEEN))
    latest = shadow.report().latest
    assert len(latest) == KEPT
    assert [latest[0].request_id, latest[-1].request_id] == [f"r{KEPT + 4}", "r5"]
    assert shadow.disagreed == KEPT + 5


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ConfigError, match="fastest"):
        Shadow("fastest", 0)


def test_a_shadow_leaves_the_decision_and_its_chance_alone() -> None:
    before = [decided(f"r{i}", SEEN) for i in range(5)]
    shadow = Shadow("random", 0)
    for i, decision in enumerate(before):
        shadow.observe(request(f"r{i}"), SEEN, decision)
    assert [decided(f"r{i}", SEEN) for i in range(5)] == before


@given(
    seen=candidates(),
    name=st.text(min_size=1, max_size=8),
    policy=st.sampled_from(sorted(POLICIES)),
)
def test_a_policy_that_shadows_itself_always_agrees(
    seen: tuple[Candidate, ...], name: str, policy: str
) -> None:
    shadow = Shadow(policy, 0)
    shadow.observe(request(name), seen, decided(name, seen, policy))
    report = shadow.report()
    assert (report.agreed, report.disagreed) == (1, 0)
    assert report.ours_cached_tokens == report.theirs_cached_tokens
