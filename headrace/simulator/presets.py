"""Cards and models by name. Pure.

Sources. Cards: memory and bandwidth from NVIDIA's datasheet of each card (RTX PRO 6000: Server
Edition), as collected in aiconfigurator's ``systems/*.yaml`` where it has the card.

Tensor throughput is what a large matrix product reaches, not what the datasheet promises: power
limits take a share that differs from card to card (RTX 4090: none of 165, H100: a fifth of 989,
L4: two fifths of 121). Median of the bf16 results per card in zzc0721/torch-performance-test-data,
``database.md`` and issues 78, 79, 120, 161 (torch.matmul, best of sizes up to 10,240): RTX 4090
162 to 173, RTX PRO 6000 Server 409 and 417, H100 784 to 798, H200 790, A100 SXM 265, L40S 269,
L4 71. A10: none found, four fifths of its 125 as for A40 and RTX A6000 there. fp8: twice bf16.

Links: NVLink by datasheet; PCIe cards by what NCCL moves, about 20 GB/s over a 16-lane 4.0 slot
and 40 over 5.0 (NVIDIA/nccl issues 1530 and 1639), 20 us per collective.
Models: ``config.json`` of each model on the Hugging Face hub.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from headrace.core.errors import ConfigError
from headrace.simulator.spec import EngineSpec, Hardware, ModelShape, tp_that_fits

_GIB: Final = 1024**3

HARDWARE: Final[Mapping[str, Hardware]] = MappingProxyType(
    {
        card.name: card
        for card in (
            Hardware("L4", 24_152_899_584, 300e9, 71e12, 142e12, 20e9, 20e-6),
            Hardware("A10", 24_146_608_128, 600e9, 100e12, None, 20e9, 20e-6),
            Hardware("L40S", 48_305_799_168, 864e9, 269e12, 538e12, 20e9, 20e-6),
            Hardware("A100", 80 * _GIB, 2039e9, 265e12, None, 300e9),
            Hardware("H100", 80 * _GIB, 3350e9, 789e12, 1578e12, 450e9),
            Hardware("H200", 151_397_597_184, 4800e9, 790e12, 1580e12, 450e9),
            Hardware("RTX4090", 25_250_627_584, 1008e9, 165e12, 330e12, 20e9, 20e-6),
            Hardware("RTXPRO6000", 102_641_958_912, 1597e9, 413e12, 826e12, 40e9, 20e-6),
        )
    }
)

MODELS: Final[Mapping[str, ModelShape]] = MappingProxyType(
    {
        model.name: model
        for model in (
            ModelShape("Llama-3.1-8B", 32, 4096, 32, 8, 128, 14_336, 128_256),
            ModelShape("Llama-3.1-70B", 80, 8192, 64, 8, 128, 28_672, 128_256),
            ModelShape("Qwen3-32B", 64, 5120, 64, 8, 128, 25_600, 151_936),
            ModelShape(
                "Qwen3-30B-A3B",
                48,
                2048,
                32,
                4,
                128,
                768,
                151_936,
                experts=128,
                experts_per_token=8,
            ),
        )
    }
)


def hardware_named(name: str) -> Hardware:
    """Return the card of that name; a driver's name for it (``NVIDIA H100 80GB HBM3``) will do.

    Raises:
        ConfigError: no such card; the message lists those there are.

    """
    words = re.findall(r"[A-Z0-9]+", name.upper())
    for first in range(len(words)):
        for last in range(first + 1, len(words) + 1):
            card = HARDWARE.get("".join(words[first:last]))
            if card is not None:
                return card
    raise ConfigError(f"unknown hardware {name!r}; known: {', '.join(sorted(HARDWARE))}")


def model_named(name: str) -> ModelShape:
    """Return the model of that name; its organisation and a tuned variant's suffix are ignored.

    Raises:
        ConfigError: no such model; the message lists those there are.

    """
    short = name.rsplit("/", 1)[-1].removeprefix("Meta-").split("-Instruct")[0]
    if short not in MODELS:
        raise ConfigError(f"unknown model {name!r}; known: {', '.join(sorted(MODELS))}")
    return MODELS[short]


def engine_spec(hardware: str, model: str) -> EngineSpec:
    """Return an engine of that card and model with the least tensor parallelism that fits."""
    card, shape = hardware_named(hardware), model_named(model)
    return EngineSpec(card, shape, tp=tp_that_fits(card, shape))
