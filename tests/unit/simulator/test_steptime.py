from __future__ import annotations

from dataclasses import replace

import pytest

from headrace.simulator.presets import HARDWARE, MODELS
from headrace.simulator.spec import EngineSpec
from headrace.simulator.steptime import BatchShape, StepTime

DENSE = EngineSpec(HARDWARE["H100"], MODELS["Qwen3-32B"])
MIXTURE = EngineSpec(HARDWARE["H100"], MODELS["Qwen3-30B-A3B"])


def decode(sequences: int, context: int) -> BatchShape:
    shape = BatchShape(sampled=sequences)
    for _ in range(sequences):
        shape.add(context - 1, 1)
    return shape


def prefill(tokens: int, computed: int = 0) -> BatchShape:
    shape = BatchShape(sampled=1)
    shape.add(computed, tokens)
    return shape


def seconds(spec: EngineSpec, shape: BatchShape) -> float:
    return StepTime(spec).cost(shape).seconds


def test_one_decode_step_takes_at_least_as_long_as_reading_the_weights() -> None:
    floor_s = DENSE.model.params * 2 / DENSE.hardware.memory_bytes_per_s
    assert floor_s * 0.9 < seconds(DENSE, decode(1, 100)) < floor_s * 1.3


def test_a_large_prefill_takes_at_least_as_long_as_its_arithmetic() -> None:
    floor_s = 8192 * 2 * DENSE.model.active_params / DENSE.hardware.bf16_flops
    assert floor_s < seconds(DENSE, prefill(8192)) < floor_s * 1.5


def test_later_chunks_of_a_prompt_cost_more_because_they_attend_to_more() -> None:
    assert seconds(DENSE, prefill(2048, 30_000)) > seconds(DENSE, prefill(2048)) * 1.05


def test_growth_is_the_difference_between_two_decode_steps() -> None:
    cost = StepTime(DENSE).cost(decode(8, 1000))
    following = StepTime(DENSE).cost(decode(8, 1001))
    assert following.seconds - cost.seconds == pytest.approx(cost.growth_s, rel=1e-6)


def test_a_mixture_reads_more_experts_as_tokens_grow_and_then_no_more() -> None:
    one, many, more = (seconds(MIXTURE, decode(n, 1)) for n in (1, 64, 128))
    assert many > 3 * one
    assert more < many * 1.4


def test_a_mixture_is_faster_than_a_dense_model_of_its_size() -> None:
    assert seconds(MIXTURE, prefill(4096)) < seconds(DENSE, prefill(4096)) / 3


def test_two_cards_are_faster_than_one_but_not_twice_as_fast() -> None:
    one = seconds(DENSE, prefill(4096))
    two = seconds(replace(DENSE, tp=2), prefill(4096))
    assert one / 2 < two < one


def test_the_host_shows_only_when_it_is_slower_than_the_card() -> None:
    small = EngineSpec(HARDWARE["H200"], MODELS["Llama-3.1-8B"], tp=8)
    cost = StepTime(small).cost(decode(200, 10))
    assert cost.growth_s == 0.0
    assert cost.steps >= 1
    held_up = StepTime(replace(small, async_scheduling=False)).cost(decode(200, 10))
    assert held_up.seconds > cost.seconds
    assert StepTime(DENSE).cost(decode(8, 1000)).growth_s > 0.0


def test_eight_bit_weights_are_read_and_multiplied_faster() -> None:
    fp8 = replace(DENSE, model=replace(DENSE.model, weight_bytes=1.0))
    assert seconds(fp8, decode(1, 100)) < seconds(DENSE, decode(1, 100)) * 0.6
    assert seconds(fp8, prefill(4096)) < seconds(DENSE, prefill(4096)) * 0.7
