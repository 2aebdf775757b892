"""Dynamo, LMetric, Mooncake, Llumnix: one number per endpoint, the lowest wins."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench.rivals.dynamo import Dynamo
from bench.rivals.llumnix import Llumnix
from bench.rivals.lmetric import LMetric
from bench.rivals.mooncake import Mooncake
from bench.rivals.rival import Known, Rule
from tests.unit.bench.rivals.stage import Stage


@pytest.mark.parametrize("make", [Dynamo, LMetric, Mooncake, Llumnix])
def test_equal_endpoints_without_any_data_are_drawn(make: Callable[[Known], Rule]) -> None:
    assert {Stage(make, 3, seed=seed).send(1) for seed in range(20)} == {0, 1, 2}


@pytest.mark.parametrize("make", [Dynamo, LMetric, Mooncake, Llumnix])
@pytest.mark.parametrize("oracle", [False, True])
def test_of_idle_ones_the_one_that_holds_the_prompt_wins(
    make: Callable[[Known], Rule], oracle: bool
) -> None:
    stage = Stage(make, 3, oracle=oracle)
    stage.holds(1, 1, 2)
    stage.holds(2, 1)
    assert stage.send(1, 2, 3) == 1


def test_dynamo_adds_prefill_and_decode_blocks() -> None:
    stage = Stage(Dynamo)
    stage.holds(0, 1)
    one, index = stage.place(1, 2)
    assert index == 0
    # There: 64 tokens booked (4 blocks of prefill), 8 active blocks.
    stage.holds(0, 7)
    # 3 blocks of 64 = 12: at 0: (64 + 192 - 64) / 16 + 8 + 12 = 32; at 1: 12 + 12 = 24.
    assert stage.send(7, 8, 9) == 1
    stage.first_token(one)
    # At 0: (192 - 64) / 16 + 8 + 12 = 28; at 1: (192 + 192) / 16 + 12 + 12 = 48.
    assert stage.send(7, 10, 11) == 0


def test_dynamo_counts_blocks_that_active_requests_share_once() -> None:
    stage = Stage(Dynamo)
    stage.holds(0, 1, 2, 3, 4)
    one, _ = stage.place(1, 2, 3, 4)
    stage.first_token(one)
    # The same again at 0: (256 - 240) / 16 + 16 + 0 = 17; at 1: 16 + 16 = 32.
    again, index = stage.place(1, 2, 3, 4)
    assert index == 0
    stage.first_token(again)
    # Others: at 0 16 active blocks and 4 of its own, at 1 4 and 4 of prefill each.
    assert stage.send(50) == 1


def test_dynamo_as_an_oracle_reads_the_engines() -> None:
    stage = Stage(Dynamo, oracle=True, kv_tokens=1_600)
    stage.reports(0, pending=320)  # 20 blocks
    stage.reports(1, kv=0.19)  # 19 of 100 blocks
    assert stage.send(1) == 1
    stage.reports(1, kv=0.21)
    assert stage.send(50) == 0


def test_lmetric_multiplies_what_is_missing_with_the_requests_there() -> None:
    stage = Stage(LMetric)
    stage.holds(0, 1, 2, 3)
    assert stage.send(1, 2, 3, 4) == 0
    # 64 missing x 2 against 256 x 1.
    assert stage.send(1, 2, 3, 4) == 0
    # 64 x 3, and 64 x 4 are equal or more only at the fourth.
    assert stage.send(1, 2, 3, 5) == 0
    assert stage.send(1, 2, 3, 5, 6) == 1  # 128 x 4 > 320 x 1


def test_lmetric_as_an_oracle_counts_at_the_engines() -> None:
    stage = Stage(LMetric, oracle=True)
    stage.reports(0, running=1, waiting=1)
    assert stage.send(1) == 1


def test_mooncake_weighs_queue_and_miss_by_each_instances_speed() -> None:
    stage = Stage(Mooncake, speeds=(10_000.0, 4_000.0))
    stage.holds(1, 1, 2, 3)
    # 256 tokens: 25.6 ms against 64 missing at 16 ms.
    first, index = stage.place(1, 2, 3, 4)
    assert index == 1
    # Then 16 + 16 ms against 25.6 ms.
    assert stage.send(1, 2, 3, 5) == 0
    stage.first_token(first)
    assert stage.send(1, 2, 3, 6) == 1


def test_mooncake_as_an_oracle_has_the_real_queues() -> None:
    stage = Stage(Mooncake, oracle=True)
    stage.reports(0, pending=200)
    stage.holds(0, 1, 2, 3)
    assert stage.send(1, 2, 3, 4, 5) == 1  # (200 + 128) against 320 tokens
    stage.reports(0, pending=190)
    stage.holds(0, 11, 12, 13)
    assert stage.send(11, 12, 13, 14, 15) == 0


def test_llumnix_adds_tokens_whatever_the_speed() -> None:
    stage = Stage(Llumnix, speeds=(10_000.0, 4_000.0), detailed=True)
    stage.reports(0, pending=250)
    stage.reports(1, pending=0)
    stage.holds(0, 1)
    assert stage.send(1, 2, 3, 4) == 1  # 250 + 192 against 256


def test_llumnix_adds_what_was_sent_after_the_status_and_predicts_progress() -> None:
    stage = Stage(Llumnix, speeds=(10_000.0, 10_000.0), detailed=True)
    stage.reports(0, pending=1_000)
    stage.reports(1, pending=900)
    assert stage.send(*range(1, 5)) == 1  # 1,156 now
    assert stage.send(*range(11, 13)) == 0  # 1,128 now
    assert stage.send(*range(21, 23)) == 0  # 1,256 now
    assert stage.send(30) == 1
    stage.reports(1, pending=2_000)
    stage.now_s = 0.08  # 800 tokens less each: 456 and 1,200
    assert stage.send(40) == 0
    stage.now_s = 0.3  # by now 0 is done, and 1 is not
    assert stage.send(50) == 0


def test_llumnix_without_a_status_counts_what_it_sent() -> None:
    stage = Stage(Llumnix)
    one, first = stage.place(*range(1, 5))
    assert stage.send(50) != first
    stage.first_token(one)
    assert stage.send(60) == first
