from __future__ import annotations

import pytest

from headrace.core.errors import ConfigError
from headrace.core.ids import RequestId
from headrace.simulator.trace import TraceRequest
from headrace.simulator.workload import block_keys, engine_request, output_keys


def traced(prompt: int, ids: tuple[int, ...], run: int = 64, **more: object) -> TraceRequest:
    return TraceRequest(0.0, prompt, 20, ids, run, **more)  # type: ignore[arg-type]


def test_a_run_of_tokens_becomes_keys_counted_from_its_id() -> None:
    assert block_keys(traced(100, (3, 9)), 0, 16) == [12, 13, 14, 15, 36, 37]


def test_a_block_of_several_runs_has_the_last_ones_id() -> None:
    assert block_keys(traced(100, (5, 6, 7, 8, 9, 10), run=16), 0, 32) == [6, 8, 10]


def test_blocks_without_an_id_are_shared_with_nobody() -> None:
    first, second = (block_keys(traced(64, ()), number, 16) for number in (0, 1))
    assert len({*first, *second}) == 8
    assert all(isinstance(key, int) and key >= 1 << 63 for key in (*first, *second))


def test_the_answer_fills_blocks_with_the_ids_of_the_next_turn() -> None:
    turn = TraceRequest(0.0, 24, 40, (1, 2), 16, (3, 4))
    following = TraceRequest(9.0, 70, 40, (1, 2, 3, 4, 5), 16)
    keys = block_keys(following, 1, 16)
    answer = output_keys(turn, 0, 16)
    assert [answer(index) for index in range(1, 4)] == keys[1:4]


def test_an_answer_nobody_sends_back_fills_private_blocks() -> None:
    key = output_keys(traced(100, (3, 9)), 4, 16)(6)
    assert isinstance(key, int)
    assert key >= 1 << 63


def test_lengths_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ConfigError, match="neither is a multiple"):
        block_keys(traced(100, (1, 2), run=50), 0, 16)


def test_a_higher_priority_is_a_lower_value_for_the_engine() -> None:
    request = engine_request(traced(32, (1,), priority=5), RequestId("a"), 0, 16)
    assert request.priority == -5
    assert list(request.block_keys) == [4, 5]
