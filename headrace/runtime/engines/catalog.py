"""The engine programs that a sidecar can stand beside. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from headrace.runtime.engines.dialect import AdapterDialect
from headrace.runtime.engines.sglang import SglangAdapters
from headrace.runtime.engines.vllm_adapters import VllmAdapters


class EngineProgram(StrEnum):
    """What runs beside a sidecar. Our fleets start fewer of them: see ``EngineKind``."""

    SIMULATED = "simulated"
    VLLM = "vllm"
    SGLANG = "sglang"


DIALECTS: Final[Mapping[EngineProgram, AdapterDialect]] = MappingProxyType(
    {
        EngineProgram.SIMULATED: VllmAdapters(),
        EngineProgram.VLLM: VllmAdapters(),
        EngineProgram.SGLANG: SglangAdapters(),
    }
)
"""How each is told of adapters."""
