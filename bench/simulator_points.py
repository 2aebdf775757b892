"""Compares the step-time model with measured points that no part of it was fitted to.

The points are aiconfigurator's: mean TTFT and TPOT of vLLM under a fixed number of concurrent
requests of one length. Only those of dense models and cards that are presets are used.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from headrace.core.errors import ConfigError
from headrace.core.ids import RequestId
from headrace.simulator.engine import EngineRequest, SimEngine
from headrace.simulator.presets import HARDWARE, MODELS
from headrace.simulator.spec import EngineSpec

_ROUNDS: Final = 6  # requests per concurrent client
_CARDS: Final = {"h100_sxm": "H100", "h200_sxm": "H200", "a100_sxm": "A100", "l40s": "L40S"}
_FIRST_ASYNC: Final = (0, 14)  # vLLM release from which scheduling is asynchronous by default
_MODELS: Final = {
    "Qwen/Qwen3-32B": "Qwen3-32B",
    "meta-llama/Llama-3.1-70B": "Llama-3.1-70B",
    "meta-llama/Llama-3.1-8B-Instruct": "Llama-3.1-8B",
    "nvidia/Llama-3.1-8B-Instruct-FP8": "Llama-3.1-8B",
}


@dataclass(frozen=True, slots=True)
class Group:
    """Points of one model, precision and card.

    Errors are simulated over measured minus one, one per point.
    """

    name: str
    ttft_errors: list[float]
    tpot_errors: list[float]


def compare(path: Path) -> list[Group]:
    """Return the errors by group, in order of name; points that do not fit the card are left."""
    groups: dict[str, Group] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for name, spec, row in _points(csv.DictReader(file)):
            try:
                ttft_ms, tpot_ms = _closed_loop(
                    spec, int(row["isl"]), int(row["osl"]), int(row["batch_size"])
                )
            except ConfigError:
                continue
            group = groups.setdefault(name, Group(name, [], []))
            group.ttft_errors.append(ttft_ms / float(row["silicon_ttft_ms"]) - 1.0)
            group.tpot_errors.append(tpot_ms / float(row["silicon_tpot_ms"]) - 1.0)
    return [groups[name] for name in sorted(groups)]


def _points(
    reader: csv.DictReader[str],
) -> Iterator[tuple[str, EngineSpec, dict[str, str]]]:
    for row in reader:
        card, model = _CARDS.get(row["system"]), _MODELS.get(row["model_path"])
        quantised = row["gemm_quant_mode"]
        if row["backend"] != "vllm" or row["mode"] != "agg" or card is None or model is None:
            continue
        if quantised not in ("", "fp8"):
            continue
        shape = replace(MODELS[model], weight_bytes=1.0) if quantised else MODELS[model]
        if not row["backend_version"][:1].isdigit():
            continue  # whether scheduling was asynchronous is not known
        version = tuple(int(part) for part in row["backend_version"].split(".")[:2])
        spec = EngineSpec(
            HARDWARE[card],
            shape,
            tp=int(row["tp_size"]),
            max_num_seqs=1024,
            gpu_memory_utilization=0.95,
            async_scheduling=version >= _FIRST_ASYNC,
        )
        yield f"{model}-{quantised or 'bf16'}-{card}".lower(), spec, row


def _closed_loop(
    spec: EngineSpec, prompt_tokens: int, output_tokens: int, clients: int
) -> tuple[float, float]:
    """Mean TTFT and TPOT in milliseconds of clients that each send one request after another."""
    engine = SimEngine(spec)
    total = clients * _ROUNDS
    begun: dict[str, float] = {}
    first: dict[str, float] = {}
    tpots: list[float] = []
    now_s = 0.0

    def send() -> None:
        request_id = RequestId(str(len(begun)))
        begun[request_id] = now_s
        engine.add(EngineRequest(request_id, prompt_tokens, output_tokens), now_s)

    for _ in range(clients):
        send()
    while len(tpots) < total:
        duration_s = engine.begin_step(now_s, max_steps=1 << 20)
        assert duration_s is not None
        now_s += duration_s
        result = engine.end_step(now_s)
        first.update(dict.fromkeys(result.first, now_s))
        for finished in result.finished:
            tpots.append((now_s - first[finished.request_id]) / max(1, output_tokens - 1))
            if len(begun) < total:
                send()
    ttfts = [first[request_id] - begun_s for request_id, begun_s in begun.items()]
    return float(np.mean(ttfts)) * 1e3, float(np.mean(tpots)) * 1e3
