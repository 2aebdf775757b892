from __future__ import annotations

import json
from pathlib import Path

import pytest

from headrace.core.errors import ConfigError
from headrace.simulator.agents import (
    BLOCK_TOKENS,
    BYTES_PER_TOKEN,
    SECONDS_PER_OUTPUT_TOKEN,
    TOOL_CALL_TOKENS,
    load_agents,
    replay_agents,
)

BLOCK = BLOCK_TOKENS * BYTES_PER_TOKEN
SYSTEM = "s" * BLOCK


def write(folder: Path, name: str, calls: list[tuple[float, str, str]]) -> None:
    rows = [
        {"timestamp": round(at_s * 1e6), "input": prompt, "output": output, "session_id": name}
        for at_s, prompt, output in calls
    ]
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_text_becomes_tokens_of_four_bytes_and_full_blocks(tmp_path: Path) -> None:
    write(tmp_path, "a", [(1.0, "x" * (2 * BLOCK + 5), "y" * 9)])
    (turn,) = load_agents(tmp_path).sessions["a"]
    assert turn.prompt_tokens == 2 * BLOCK_TOKENS + 2
    assert turn.output_tokens == 3
    assert len(turn.blocks) == 2


def test_text_is_counted_in_bytes_not_in_characters(tmp_path: Path) -> None:
    write(tmp_path, "a", [(1.0, "é" * 8, "é" * 2)])
    (turn,) = load_agents(tmp_path).sessions["a"]
    assert (turn.prompt_tokens, turn.output_tokens) == (4, 1)


def test_blocks_are_named_by_all_that_comes_before_them(tmp_path: Path) -> None:
    write(tmp_path, "a", [(1.0, SYSTEM + "u" * BLOCK, "o"), (2.0, SYSTEM + "v" * BLOCK, "o")])
    write(tmp_path, "b", [(1.0, "t" * BLOCK + "u" * BLOCK, "o")])
    trace = load_agents(tmp_path)
    (first, second), (other,) = trace.sessions["a"], trace.sessions["b"]
    assert first.blocks[0] == second.blocks[0]
    assert first.blocks[1] != second.blocks[1]
    assert other.blocks[1] != first.blocks[1]  # the same text after another beginning


def test_turns_are_in_order_of_time_and_spaced_as_recorded(tmp_path: Path) -> None:
    write(tmp_path, "a", [(7.0, "later", "o" * 4), (2.0, "sooner", "o" * 4)])
    first, second = load_agents(tmp_path).sessions["a"]
    assert first.prompt_tokens == 2
    assert first.gap_s == pytest.approx(5.0)
    assert second.gap_s == 0.0


def test_no_turn_comes_before_the_answer_to_the_one_before_could_be_read(tmp_path: Path) -> None:
    write(tmp_path, "a", [(1.0, "x", "o" * 400), (1.1, "x", "o")])
    first, _ = load_agents(tmp_path).sessions["a"]
    assert first.gap_s == pytest.approx(100 * SECONDS_PER_OUTPUT_TOKEN)


def test_an_empty_output_counts_as_a_tool_call(tmp_path: Path) -> None:
    write(tmp_path, "a", [(1.0, "x", "")])
    (turn,) = load_agents(tmp_path).sessions["a"]
    assert turn.output_tokens == TOOL_CALL_TOKENS


def test_a_folder_without_sessions_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(ConfigError, match="no agent session"):
        load_agents(tmp_path)


def test_a_malformed_line_is_refused_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"timestamp": 1, "input": 2, "output": ""}\n')
    with pytest.raises(ConfigError, match=r"a\.jsonl:1: input must be a string"):
        load_agents(tmp_path)


def common_and_own(folder: Path) -> None:
    for name in ("a", "b", "c"):
        prompt = SYSTEM + name * BLOCK
        write(folder, name, [(1.0, prompt, "o" * 8), (2.0, prompt + "n" * BLOCK, "o" * 8)])


def test_a_copy_shares_with_other_passes_only_what_all_sessions_begin_with(tmp_path: Path) -> None:
    common_and_own(tmp_path)
    trace = load_agents(tmp_path)
    assert len(trace.common) == 1
    requests = replay_agents(trace, seed=1, rate_rps=5.0, count=60)
    by_session: dict[str, set[int]] = {}
    for request in requests:
        assert request.session is not None
        by_session.setdefault(request.session, set()).update(request.hash_ids)
    assert len(by_session) > 6
    sets = list(by_session.values())
    for index, ids in enumerate(sets):
        for other in sets[index + 1 :]:
            assert ids & other == trace.common


def test_within_one_pass_equal_text_stays_equal(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d", "e"):  # a and b work on the same thing
        own = "same" if name in "ab" else name * 4
        write(tmp_path, name, [(1.0, own * BLOCK_TOKENS, "o")])
    trace = load_agents(tmp_path)
    assert not trace.common
    requests = replay_agents(trace, seed=3, rate_rps=1.0, count=40)
    first_pass = [r for r in requests if int((r.session or "").split("-")[1]) < 5]
    ids = {(r.session or "")[0]: r.hash_ids for r in first_pass}
    assert ids["a"] == ids["b"]
    second_pass = [r for r in requests if 5 <= int((r.session or "").split("-")[1]) < 10]
    assert not {r.hash_ids for r in second_pass} & {r.hash_ids for r in first_pass}


def test_later_turns_of_a_copy_repeat_its_own_blocks(tmp_path: Path) -> None:
    common_and_own(tmp_path)
    requests = replay_agents(load_agents(tmp_path), seed=1, rate_rps=5.0, count=60)
    latest: dict[str, tuple[int, ...]] = {}
    later = 0
    for request in requests:
        assert request.session is not None
        before = latest.get(request.session)
        if before is not None:
            later += 1
            assert request.hash_ids[: len(before)] == before
        latest[request.session] = request.hash_ids
    assert later > 10


def test_the_rate_is_as_asked_and_the_first_request_comes_at_once(tmp_path: Path) -> None:
    common_and_own(tmp_path)
    requests = replay_agents(load_agents(tmp_path), seed=2, rate_rps=20.0, count=2_000)
    arrivals = [request.arrival_s for request in requests]
    assert arrivals[0] == 0.0
    assert arrivals == sorted(arrivals)
    assert len(requests) / arrivals[-1] == pytest.approx(20.0, rel=0.1)


def test_the_same_seed_gives_the_same_requests_and_another_seed_others(tmp_path: Path) -> None:
    common_and_own(tmp_path)
    trace = load_agents(tmp_path)
    once = replay_agents(trace, seed=1, rate_rps=5.0, count=50)
    assert once == replay_agents(trace, seed=1, rate_rps=5.0, count=50)
    assert once != replay_agents(trace, seed=2, rate_rps=5.0, count=50)
