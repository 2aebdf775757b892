from __future__ import annotations

import pytest

from headrace.simulator.sessions import (
    BLOCK_TOKENS,
    PrefixModel,
    continued_ratio,
    with_sessions,
)
from headrace.simulator.trace import TraceRequest

MODEL = PrefixModel(continue_ratio=0.5, think_s=1.0)


def plain(count: int = 2_000, gap_s: float = 0.1) -> list[TraceRequest]:
    lengths = (300, 700, 1_500, 400, 3_000)
    return [TraceRequest(n * gap_s, lengths[n % 5] + n % 97, 20 + n % 50) for n in range(count)]


def test_arrivals_and_lengths_are_kept() -> None:
    before = plain()
    after = with_sessions(before, MODEL, 1)
    kept = [(r.arrival_s, r.prompt_tokens, r.output_tokens) for r in after]
    assert kept == [(r.arrival_s, r.prompt_tokens, r.output_tokens) for r in before]


def test_a_later_turn_begins_with_the_prompt_and_answer_of_the_turn_before() -> None:
    latest: dict[str, TraceRequest] = {}
    later = 0
    for request in with_sessions(plain(), MODEL, 1):
        assert request.session is not None
        before = latest.get(request.session)
        if before is not None:
            later += 1
            held = before.prompt_tokens + before.output_tokens
            assert held < request.prompt_tokens
            ids = before.hash_ids + before.output_hash_ids
            assert request.hash_ids[: len(ids)] == ids
        latest[request.session] = request
    assert later > 100


def test_a_later_turn_comes_after_the_answer_could_have_ended() -> None:
    ready_s: dict[str, float] = {}
    for request in with_sessions(plain(), MODEL, 1):
        assert request.session is not None
        assert request.arrival_s >= ready_s.get(request.session, 0.0)
        reading_s = request.output_tokens * MODEL.seconds_per_output_token
        ready_s[request.session] = request.arrival_s + reading_s


def test_conversations_share_their_system_prompt_and_nothing_else() -> None:
    requests = with_sessions(plain(400), MODEL, 1)
    shared = MODEL.preamble_tokens // BLOCK_TOKENS
    systems = {request.hash_ids[:shared] for request in requests}
    assert 1 < len(systems) <= MODEL.preambles
    own: dict[int, str | None] = {}
    for request in requests:
        for hash_id in request.hash_ids[shared:]:
            assert own.setdefault(hash_id, request.session) == request.session


def test_a_prompt_shorter_than_the_system_prompt_is_all_system_prompt() -> None:
    (short,) = with_sessions([TraceRequest(0.0, 40, 5)], MODEL, 1)
    (long,) = with_sessions([TraceRequest(0.0, 400, 5)], MODEL, 1)
    assert len(short.hash_ids) == 3
    assert short.hash_ids == long.hash_ids[:3]


def test_ids_cover_the_prompt_and_the_answer_exactly_once() -> None:
    for request in with_sessions(plain(200), MODEL, 1):
        assert len(request.hash_ids) == -(-request.prompt_tokens // BLOCK_TOKENS)
        total = -(-(request.prompt_tokens + request.output_tokens) // BLOCK_TOKENS)
        assert len(request.hash_ids) + len(request.output_hash_ids) == total


@pytest.mark.parametrize("chance", [0.0, 0.3, 0.6])
def test_about_as_many_requests_continue_as_the_model_says_where_most_fit(chance: float) -> None:
    requests = [TraceRequest(n * 0.1, 300 + 60 * (n // 10), 10) for n in range(2_000)]
    made = with_sessions(requests, PrefixModel(chance, think_s=1.0), 1)
    assert continued_ratio(made) == pytest.approx(chance, abs=0.05)


def test_the_same_seed_gives_the_same_prefixes_and_another_seed_others() -> None:
    once = with_sessions(plain(300), MODEL, 1)
    assert once == with_sessions(plain(300), MODEL, 1)
    assert once != with_sessions(plain(300), MODEL, 2)


def test_nothing_continues_in_an_empty_workload() -> None:
    assert continued_ratio([]) == 0.0
