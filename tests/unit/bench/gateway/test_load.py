from __future__ import annotations

import json
from dataclasses import replace

import pytest

from bench.gateway.bodies import LONG_PROMPT_CHARS, conversations, long_prompts
from bench.gateway.cases import faults
from bench.gateway.load import Load, parse
from bench.gateway.upstream import Served

NOTHING = Served(0, 0, 0, 0, 0, 0, 0, (0, 0))
LOAD = Load(100, 2.0, 5_000, 0, 1.0, 2.0)


def test_what_wrk_prints_is_read_in_seconds_and_milliseconds() -> None:
    line = (
        '{"requests":100,"duration_us":2000000,"bytes":5000,"errors":0,'
        '"p50_us":1000.0,"p99_us":2000.0,"mean_us":1.0,"max_us":1.0}'
    )
    load = parse(f"Running 2s test\nRESULT {line}\n")
    assert load == LOAD
    assert load.rps == 50.0


def test_output_without_a_result_is_an_error() -> None:
    with pytest.raises(ValueError, match="no result"):
        parse("unable to connect\n")


def test_requests_in_flight_when_the_load_stops_are_no_faults() -> None:
    after = replace(NOTHING, requests=132, aborted=32)
    assert faults(NOTHING, after, LOAD, 32) == {}


@pytest.mark.parametrize(
    ("load", "after", "expected"),
    [
        (replace(LOAD, errors=3), {"requests": 100}, {"refused, broken or late": 3}),
        (LOAD, {"requests": 140}, {"sent twice": 8}),
        (LOAD, {"requests": 90}, {"invented": 10}),
        (LOAD, {"requests": 100, "unfinished_writes": 1}, {"not read": 1}),
        (LOAD, {"requests": 110, "aborted": 40}, {"cut short": 8}),
    ],
)
def test_what_client_and_engine_do_not_agree_on_is_a_fault(
    load: Load, after: dict[str, int], expected: dict[str, int]
) -> None:
    assert faults(NOTHING, replace(NOTHING, **after), load, 32) == expected  # type: ignore[arg-type]


def test_conversations_are_the_same_for_the_same_seed_and_grow_by_turns() -> None:
    bodies = [json.loads(body) for body in conversations(1, 16, stream=True)]
    assert bodies == [json.loads(body) for body in conversations(1, 16, stream=True)]
    assert all(body["stream"] for body in bodies)
    first, second = bodies[0]["messages"], bodies[1]["messages"]
    assert second[: len(first)] == first
    assert len(second) > len(first)


def test_bodies_are_about_two_kilobytes_and_the_long_ones_100k_tokens() -> None:
    sizes = [len(body) for body in conversations(1, 256, stream=False)]
    assert 1_500 < sum(sizes) / len(sizes) < 2_500
    assert all(len(body) > LONG_PROMPT_CHARS for body in long_prompts(1, 2))
