"""A thousand adapters on eight simulated engines, beside what others do with them."""

from __future__ import annotations

import pytest

from bench.lora.figures import ADAPTERS, CASES, HEADLINE, KEYS, measure
from tests.e2e.lora.conftest import Found

pytestmark = pytest.mark.vllm


def test_what_adapters_add_to_the_time_to_first_token(found: Found) -> None:
    figures, spread = measure(print)
    found.figures.update(figures)
    found.spread.update(spread)
    for case in CASES:
        for key in KEYS.values():
            assert 0.0 < figures[f"{case.name}.{key}.hit_ratio"] < 1.0
            assert figures[f"{case.name}.{key}.loads"] > ADAPTERS / 10
    ours = figures[f"{HEADLINE.name}.headrace.added_p99_ms"]
    assert ours < figures[f"{HEADLINE.name}.aibrix.added_p99_ms"]
    assert ours < figures[f"{HEADLINE.name}.lru.added_p99_ms"]
