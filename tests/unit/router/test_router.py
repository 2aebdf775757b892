from dataclasses import replace

import pytest

from headrace.core.endpoint import EndpointView, EngineLoad, Health, Speed
from headrace.core.errors import ConfigError, ModelNotFound, NoEndpoint
from headrace.core.ids import BlockHash, EndpointId, ModelName, RequestId
from headrace.core.request import RouteRequest
from router.catalog import POLICIES, make_policy
from router.router import Options, Router
from router.speed import EVEN_TOKENS, FIXED_MS

A, B, C = EndpointId("a"), EndpointId("b"), EndpointId("c")
M = ModelName("m")
SPEED = Speed(prefill_tokens_per_s=10_000.0, kv_tokens=100_000)


def view(endpoint: EndpointId, health: Health = Health.READY, speed: Speed = SPEED) -> EndpointView:
    return EndpointView(endpoint, f"http://{endpoint}", (M,), health=health, speed=speed)


def request(name: str, tokens: int = 1024, first_block: int = 0) -> RouteRequest:
    blocks = tuple(BlockHash(first_block * 1000 + i) for i in range(tokens // 16))
    return RouteRequest(RequestId(name), M, tokens, blocks, block_tokens=16.0)


def prefill_ms(tokens: int) -> float:
    """At 10,000 tokens per second, and with what attention adds to it."""
    return 15.0 + tokens * 0.1 + tokens * tokens / 2 * 0.1 / EVEN_TOKENS


def router(policy: str = "expected-ttft", *views: EndpointView) -> Router:
    made = Router(policy, Options(seed=1))
    made.set_endpoints(views or (view(A), view(B)))
    return made


def send(r: Router, req: RouteRequest, now_s: float = 0.0) -> EndpointId:
    decision = r.choose(req, now_s)
    r.dispatched(req, decision, now_s)
    r.check()
    return decision.endpoint_id


def test_a_warm_endpoint_beats_an_idle_one() -> None:
    r = router()
    first = send(r, request("r1", 8192))
    r.first_token(RequestId("r1"), 0.8)
    r.released(RequestId("r1"), 1.0)
    assert send(r, request("r2", 8192), 1.0) == first


def test_a_warm_endpoint_with_a_long_queue_loses_to_an_idle_one() -> None:
    r = router()
    first = send(r, request("r1", 2048))
    for n in range(4):
        decision = r.choose(request(f"q{n}", 16384, first_block=n + 1), 0.0)
        if decision.endpoint_id != first:
            decision = r.choose(
                request(f"q{n}", 16384, first_block=n + 1), 0.0, frozenset({B if first == A else A})
            )
        r.dispatched(request(f"q{n}", 16384, first_block=n + 1), decision, 0.0)
    assert send(r, request("r2", 2048), 0.0) != first


def test_the_decision_says_what_each_candidate_would_cost_in_milliseconds() -> None:
    r = router()
    send(r, request("r1", 10_000))
    decision = r.choose(request("r2", 2_000, first_block=7), 0.0)
    assert decision.unit == "ms"
    best, other = decision.ranking
    assert dict(best.parts)["queue"] == 0.0
    assert dict(other.parts)["queue"] == pytest.approx(prefill_ms(10_000))
    assert dict(best.parts)["prefill"] == pytest.approx(prefill_ms(2_000))
    assert best.cost == pytest.approx(sum(ms for _, ms in best.parts))


def test_a_queue_shrinks_as_time_passes_but_only_by_its_oldest_request() -> None:
    r = router("expected-ttft", view(A))
    send(r, request("r1", 10_000))
    send(r, request("r2", 10_000, first_block=5))

    def queue_ms(now_s: float) -> float:
        return dict(r.choose(request("x", 16, first_block=9), now_s).ranking[0].parts)["queue"]

    both_ms = 2 * prefill_ms(10_000) - FIXED_MS
    assert queue_ms(0.0) == pytest.approx(both_ms)
    assert queue_ms(0.5) == pytest.approx(both_ms - 500.0)
    assert queue_ms(9.0) == pytest.approx(prefill_ms(10_000) - FIXED_MS)


def test_a_reply_that_is_not_streamed_is_taken_for_computed_when_its_time_is_up() -> None:
    r = router("expected-ttft", view(A))
    silent = replace(request("r1", 10_000), first_token_seen=False)
    send(r, silent)

    def seen(now_s: float) -> tuple[float, int]:
        candidate = r.choose(request("x", 16, first_block=9), now_s).candidate
        return candidate.queued_ms, candidate.decoding

    assert seen(0.5)[0] == pytest.approx(prefill_ms(10_000) - 500.0)
    assert seen(0.5)[1] == 0
    assert seen(2.0)[0] == 0.0
    assert seen(2.1)[1] == 1
    r.released(silent.request_id, 3.0)
    r.check()
    assert r.inflight(A) == 0


def test_a_slower_endpoint_gets_the_request_only_when_the_faster_one_is_busier() -> None:
    slow = Speed(prefill_tokens_per_s=2_500.0, kv_tokens=100_000)
    r = router("expected-ttft", view(A), view(B, speed=slow))
    assert send(r, request("r1", 4_000)) == A
    assert send(r, request("r2", 4_000, first_block=3)) == A  # 0.8 s there, 1.6 s on the other
    assert send(r, request("r3", 4_000, first_block=4)) == B  # and whoever comes waits for it


def test_speed_is_learned_from_first_tokens() -> None:
    r = router("expected-ttft", view(A))
    now_s = 0.0
    for n in range(60):
        req = request(f"r{n}", 4_000 + 500 * (n % 5), first_block=n + 1)
        send(r, req, now_s)
        now_s += req.prompt_tokens / 5_000.0  # half as fast as presumed
        r.first_token(req.request_id, now_s)
        r.released(req.request_id, now_s)
    cost = dict(r.choose(request("x", 5_000, first_block=99), now_s).ranking[0].parts)["prefill"]
    assert cost == pytest.approx(1_000.0, rel=0.1)


def test_what_the_probe_measures_replaces_what_was_presumed_before_it_had() -> None:
    report = EngineLoad(running=0, waiting=0, kv_used_ratio=0.0, at_s=0.0)
    slow, fast = Speed(prefill_tokens_per_s=8_000.0), Speed(prefill_tokens_per_s=64_000.0)
    r = router("expected-ttft", replace(view(A, Health.DOWN, slow), load=report))
    r.set_endpoints([replace(view(A, speed=fast), load=report)])
    (candidate,) = r.candidates(request("r"), 0.0)
    assert candidate.per_token_ms == pytest.approx(1_000.0 / 64_000.0)

    for n, name in enumerate(("r", "next")):  # a step is known when the next one shows
        send(r, request(name, first_block=100 * n))
        r.first_token(RequestId(name), n + 1.0)
        r.released(RequestId(name), n + 1.0)
    r.set_endpoints([replace(view(A, speed=fast), load=report)])
    (learned,) = r.candidates(request("s", first_block=9), 1.0)
    assert learned.per_token_ms > candidate.per_token_ms, "and nothing else makes it forget"


def test_nearly_full_kv_is_avoided() -> None:
    r = router()
    for n in range(10):
        req = request(f"r{n}", 9_000, first_block=n + 1)
        r.dispatched(req, r.choose(req, 0.0, frozenset({B})), 0.0)
        r.first_token(req.request_id, 1.0 + n)
    parts = {t.endpoint_id: dict(t.parts) for t in r.choose(request("x", 5_000, 99), 50.0).ranking}
    assert parts[A]["kv"] > 1_000 > parts[B]["kv"]


def test_endpoints_that_are_not_ready_are_not_chosen() -> None:
    r = router("random", view(A, Health.DRAINING), view(B, Health.DOWN), view(C))
    assert {send(r, request(f"r{n}")) for n in range(20)} == {C}
    with pytest.raises(NoEndpoint, match="no endpoint is ready for model 'm'"):
        r.choose(request("x"), 0.0, frozenset({C}))


def test_an_unknown_model_names_those_that_exist() -> None:
    with pytest.raises(ModelNotFound, match="models served: m"):
        router().choose(RouteRequest(RequestId("r"), ModelName("nope"), 1), 0.0)


def test_an_endpoint_that_went_down_is_taken_to_be_cold() -> None:
    r = router()
    first = send(r, request("r1", 4_000))
    r.released(RequestId("r1"), 0.5)
    r.set_endpoints([view(A, Health.DOWN), view(B, Health.DOWN)])
    r.set_endpoints([view(A), view(B)])
    assert r.choose(request("r2", 4_000), 1.0).candidate.cached_tokens == 0.0
    assert first in (A, B)


def test_round_robin_takes_turns_in_order_and_survives_a_change_of_list() -> None:
    r = router("round-robin", view(A), view(B), view(C))
    assert [send(r, request(f"r{n}")) for n in range(4)] == [A, B, C, A]
    r.set_endpoints([view(A), view(C)])
    assert [send(r, request(f"s{n}")) for n in range(3)] == [C, A, C]


def test_least_requests_counts_what_is_in_flight() -> None:
    r = router("least-requests")
    first = send(r, request("r1"))
    assert send(r, request("r2")) != first
    r.released(RequestId("r1"), 1.0)
    assert send(r, request("r3")) == first
    assert (r.inflight(A), r.inflight(B)) == (1, 1)


def test_sending_the_same_request_twice_is_refused() -> None:
    r = router()
    send(r, request("r1"))
    with pytest.raises(ValueError, match="already in flight"):
        send(r, request("r1"))


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_choosing_reserves_nothing(policy: str) -> None:
    r = router(policy)
    r.choose(request("r1"), 0.0)
    assert (r.inflight(A), r.inflight(B)) == (0, 0)


def test_an_unknown_policy_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="expected-ttft, least-requests, random, round-robin"):
        make_policy("magic")


def test_a_fleet_that_outruns_the_clock_is_routed_as_one_that_does_not() -> None:
    def costs(scale: float) -> list[tuple[EndpointId, float]]:
        speed = replace(SPEED, prefill_tokens_per_s=SPEED.prefill_tokens_per_s * scale)
        r = Router("expected-ttft", Options(time_scale=scale))
        r.set_endpoints([view(A, speed=speed), view(B, speed=speed)])
        seen = []
        for n in range(12):
            req = request(f"r{n}", 500 + 700 * (n % 4), first_block=100 * (n % 3))
            decision = r.choose(req, n * 0.1 / scale)
            seen.append((decision.endpoint_id, round(decision.ranking[0].cost, 6)))
            r.dispatched(req, decision, n * 0.1 / scale)
            r.first_token(RequestId(f"r{n - 1}"), (n * 0.1 + 0.05) / scale)
            r.released(RequestId(f"r{n - 4}"), (n * 0.1 + 0.06) / scale)
        return seen

    assert costs(8.0) == costs(1.0)
