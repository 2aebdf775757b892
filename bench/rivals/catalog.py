"""Every rival by name. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Final

from bench.rivals import counting, llmd, llumnix, smg
from bench.rivals.aibrix import PrefixCache
from bench.rivals.dynamo import Dynamo
from bench.rivals.kubeai import Chwbl
from bench.rivals.lmetric import LMetric
from bench.rivals.mooncake import Mooncake
from bench.rivals.preble import Preble
from bench.rivals.rival import Known, Rival, Rule
from headrace.twin.placement import Placement

ORACLE: Final = "-oracle"
"""How the names of oracle forms end; they know what no router could, and show a rule's limit."""


def _sglang(known: Known) -> Rule:
    return smg.CacheAware(known, smg.SGLANG)


def _smg(known: Known) -> Rule:
    return smg.CacheAware(known, smg.SMG)


def _llmd(known: Known) -> Rule:
    return llmd.DefaultWeights(known, llmd.Approximate(known))


def _llmd_precise(known: Known) -> Rule:
    return llmd.DefaultWeights(known, llmd.Precise(known))


def _llmd_exact(known: Known) -> Rule:
    return llmd.DefaultWeights(known, llmd.Exact(known))


def _llmd_affinity(known: Known) -> Rule:
    return llmd.Affinity(known, llmd.Approximate(known))


_oracle = partial(partial, Rival, kv_events=True, oracle=True)

RIVALS: Final[Mapping[str, Callable[[int], Placement]]] = MappingProxyType(
    {
        "round-robin": partial(Rival, counting.RoundRobin),
        "random": partial(Rival, counting.Uniform),
        "power-of-two": partial(Rival, counting.PowerOfTwo),
        "least-requests": partial(Rival, counting.LeastRequests),
        "smg-least-load": partial(Rival, smg.LeastLoad, scrape_s=smg.POLL_S, detailed=True),
        "sglang-cache-aware": partial(Rival, _sglang),
        "smg-cache-aware": partial(Rival, _smg),
        "aibrix-prefix-cache": partial(Rival, PrefixCache),
        "aibrix-preble": partial(Rival, Preble),
        "dynamo": partial(Rival, Dynamo, kv_events=True),
        "llm-d": partial(Rival, _llmd, scrape_s=llmd.SCRAPE_S),
        "llm-d-precise": partial(Rival, _llmd_precise, scrape_s=llmd.SCRAPE_S, kv_events=True),
        "llm-d-affinity": partial(Rival, _llmd_affinity),
        "kubeai-chwbl": partial(Rival, Chwbl),
        "lmetric": partial(Rival, LMetric, kv_events=True),
        "mooncake": partial(Rival, Mooncake, kv_events=True),
        "llumnix": partial(
            Rival, llumnix.Llumnix, scrape_s=llumnix.STATUS_S, kv_events=True, detailed=True
        ),
        "sglang-cache-aware-oracle": _oracle(_sglang),
        "aibrix-prefix-cache-oracle": _oracle(PrefixCache),
        "dynamo-oracle": _oracle(Dynamo),
        "llm-d-oracle": _oracle(_llmd_exact),
        "lmetric-oracle": _oracle(LMetric),
        "mooncake-oracle": _oracle(Mooncake),
        "llumnix-oracle": _oracle(llumnix.Llumnix),
    }
)
