from __future__ import annotations

import pytest

from headrace.core.errors import ConfigError
from headrace.simulator.trace import TraceRequest
from headrace.simulator.workload import block_keys, output_keys


def asked(prompt_tokens: int, *hash_ids: int, run: int = 16, answer: int = 0) -> TraceRequest:
    output_ids = tuple(range(900, 900 + answer))
    return TraceRequest(0.0, prompt_tokens, 1, hash_ids, run, output_ids)


def test_a_block_of_several_runs_is_named_by_the_last_of_them() -> None:
    assert block_keys(asked(130, *range(20, 29)), 0, 64) == [23, 27]


def test_a_block_that_is_part_of_a_run_is_named_by_run_and_place() -> None:
    assert block_keys(asked(80, 5, 6, run=64), 0, 16) == [20, 21, 22, 23, 24]


def test_blocks_that_no_id_covers_are_private_to_the_request() -> None:
    first, second = (block_keys(asked(128, 1, 2, 3, 4), number, 64) for number in (0, 1))
    assert first[0] == second[0] == 4
    assert first[1] != second[1]


def test_an_answer_that_is_sent_back_has_the_keys_of_the_next_prompt() -> None:
    key = output_keys(asked(70, 1, 2, 3, 4, 5, answer=3), 0, 64)
    later = block_keys(asked(128, 1, 2, 3, 4, 5, 900, 901, 902), 1, 64)
    assert [key(0), key(1)] == later


def test_lengths_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="neither"):
        block_keys(asked(80, 1, run=24), 0, 16)
