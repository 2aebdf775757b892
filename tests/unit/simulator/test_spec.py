from __future__ import annotations

from dataclasses import replace

import pytest

from headrace.core.errors import ConfigError
from headrace.simulator.presets import (
    HARDWARE,
    MODELS,
    engine_spec,
    hardware_named,
    model_named,
)
from headrace.simulator.spec import EngineSpec, tp_that_fits
from headrace.simulator.speed import presumed_speed

ISSUE_CARDS = {"L4", "A10", "L40S", "A100", "H100", "H200", "RTX4090", "RTXPRO6000"}


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("Llama-3.1-8B", 8.03),
        ("Llama-3.1-70B", 70.55),
        ("Qwen3-32B", 32.76),
        ("Qwen3-30B-A3B", 30.53),
    ],
)
def test_presets_have_as_many_weights_as_the_model_cards_say(name: str, billions: float) -> None:
    assert MODELS[name].params / 1e9 == pytest.approx(billions, abs=0.01)


def test_a_mixture_activates_few_of_its_weights() -> None:
    model = MODELS["Qwen3-30B-A3B"]
    assert (model.active_params + 2 * model.head_params) / 1e9 == pytest.approx(3.35, abs=0.1)


def test_derived_blocks_match_what_vllm_found_on_the_card_that_logged_it() -> None:
    spec = EngineSpec(
        HARDWARE["RTX4090"],
        MODELS["Llama-3.1-8B"],
        max_num_seqs=256,
        max_num_batched_tokens=2048,
    )
    assert spec.blocks == pytest.approx(2588, rel=0.01)


def test_every_preset_card_holds_every_preset_model_with_enough_cards() -> None:
    assert set(HARDWARE) == ISSUE_CARDS
    for card in HARDWARE:
        for model in MODELS:
            spec = engine_spec(card, model)
            assert spec.blocks * spec.block_size >= 16_384
    assert engine_spec("H100", "Llama-3.1-8B").tp == 1
    assert engine_spec("H100", "Llama-3.1-70B").tp == 2


def test_a_model_too_large_for_its_cards_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"Llama-3\.1-70B .* L4; raise tp"):
        _ = EngineSpec(HARDWARE["L4"], MODELS["Llama-3.1-70B"]).blocks
    with pytest.raises(ConfigError, match="does not fit on 2 x L4"):
        tp_that_fits(HARDWARE["L4"], MODELS["Llama-3.1-70B"], max_tp=2)


def test_every_problem_of_a_spec_is_named_at_once() -> None:
    with pytest.raises(ConfigError, match=r"block_size .*gpu_memory_utilization"):
        EngineSpec(HARDWARE["L4"], MODELS["Qwen3-32B"], block_size=0, gpu_memory_utilization=2.0)


@pytest.mark.parametrize(
    ("name", "card"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA GeForce RTX 4090", "RTX4090"),
        ("l40s", "L40S"),
        ("A100-SXM4-80GB", "A100"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTXPRO6000"),
    ],
)
def test_cards_are_found_by_the_names_drivers_give_them(name: str, card: str) -> None:
    assert hardware_named(name).name == card


@pytest.mark.parametrize("name", ["L40", "B200", "H20"])
def test_an_unknown_card_is_refused_and_the_known_ones_listed(name: str) -> None:
    with pytest.raises(ConfigError, match="known: A10, A100"):
        hardware_named(name)


def test_models_are_found_under_hub_names() -> None:
    assert model_named("Qwen/Qwen3-30B-A3B-Instruct-2507").name == "Qwen3-30B-A3B"
    assert model_named("meta-llama/Meta-Llama-3.1-8B-Instruct").name == "Llama-3.1-8B"
    with pytest.raises(ConfigError, match=r"known: Llama-3\.1-70B"):
        model_named("gpt2")


def test_presumed_speed_is_of_the_right_size() -> None:
    speed = presumed_speed(engine_spec("H100", "Llama-3.1-8B"))
    assert 30_000 < speed.prefill_tokens_per_s < 70_000
    assert speed.kv_tokens == engine_spec("H100", "Llama-3.1-8B").blocks * 16


def test_context_is_bounded_by_the_model_and_by_the_cache() -> None:
    spec = engine_spec("H100", "Llama-3.1-8B")
    assert spec.context_tokens == 131_072
    assert replace(spec, max_model_len=100).context_tokens == 100
    assert replace(spec, num_blocks=4).context_tokens == 64
