"""Replays the arrivals of a real vLLM run in simulated engines and compares the latencies.

A set is a folder of LLMServingSim's: ``meta.json`` (engine settings), ``requests.jsonl`` (one
record per request), ``config.json`` (which card).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.core.ids import RequestId
from headrace.simulator.engine import SimEngine, StepResult
from headrace.simulator.fleet import EngineActor
from headrace.simulator.presets import hardware_named, model_named
from headrace.simulator.spec import EngineSpec
from headrace.simulator.trace import TraceRequest, load_vllm_log
from headrace.simulator.workload import engine_request
from headrace.simulator.world import World

Seconds = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Latencies:
    """One value per request of a set, in order of arrival, in seconds."""

    ttft_s: Seconds
    tpot_s: Seconds
    e2e_s: Seconds

    def summary(self) -> dict[str, float]:
        """Return mean and P99 of each, in milliseconds."""
        figures = {}
        for name in ("ttft", "tpot", "e2e"):
            values = getattr(self, f"{name}_s") * 1e3
            figures[f"{name}_mean_ms"] = float(values.mean())
            figures[f"{name}_p99_ms"] = float(np.percentile(values, 99))
        return figures


@dataclass(frozen=True, slots=True)
class Replay:
    """What a set's requests saw in the real engine and in the simulated one."""

    name: str
    spec: EngineSpec
    engines: int
    real: Latencies
    simulated: Latencies
    preemptions: int
    steps: int

    def errors(self) -> dict[str, float]:
        """Return simulated over real minus one, for mean and P99 of each latency."""
        real, simulated = self.real.summary(), self.simulated.summary()
        return {name.removesuffix("_ms"): simulated[name] / real[name] - 1.0 for name in real}


def engine_of(folder: Path) -> tuple[EngineSpec, int]:
    """Return the logged engine and how many data-parallel copies of it there were.

    What a set does not log is vLLM's default; KV blocks it does not log follow from the card.
    """
    meta = json.loads((folder / "meta.json").read_text())
    asked = meta["engine_kwargs"]
    resolved = meta.get("resolved_config") or {}
    scheduler = resolved.get("scheduler_config") or {}
    cache = meta.get("kv_cache") or {}
    card = hardware_named(_card_name(folder))
    total_bytes = (meta.get("hardware") or {}).get("device_total_memory_bytes")
    if total_bytes:
        card = replace(card, memory_bytes=total_bytes)
    spec = EngineSpec(
        card,
        model_named(meta["model"]),
        tp=asked.get("tensor_parallel_size") or 1,
        block_size=cache.get("block_size") or 16,
        num_blocks=cache.get("num_gpu_blocks"),
        gpu_memory_utilization=cache.get("gpu_memory_utilization") or 0.9,
        max_num_seqs=asked["max_num_seqs"],
        max_num_batched_tokens=asked["max_num_batched_tokens"],
        max_model_len=asked.get("max_model_len"),
        enable_prefix_caching=cache.get("enable_prefix_caching", True),
        reserve_full_prompt=scheduler.get("scheduler_reserve_full_isl", True),
        async_scheduling=scheduler.get("async_scheduling", True),
    )
    return spec, asked.get("data_parallel_size") or 1


def replay(folder: Path) -> Replay:
    """Replay one set."""
    spec, engines = engine_of(folder)
    trace = load_vllm_log(folder / "requests.jsonl")
    simulated, actors = _simulate(spec, engines, trace)
    return Replay(
        folder.name,
        spec,
        engines,
        _real(folder / "requests.jsonl"),
        simulated,
        sum(actor.engine.counters.preemptions for actor in actors),
        sum(actor.engine.counters.steps for actor in actors),
    )


def _card_name(folder: Path) -> str:
    config = folder / "config.json"
    if not config.exists():
        return folder.name.split("_")[0]
    nodes = json.loads(config.read_text())["nodes"]
    return str(nodes[0]["instances"][0]["hardware"])


def _real(path: Path) -> Latencies:
    """Latencies of the log, from arrival.

    Arrival is wall-clock time and the rest the engine's monotonic clock; the request that the
    engine took up fastest gives the offset between the two.
    """
    rows: list[Mapping[str, Any]] = [json.loads(line) for line in path.read_text().splitlines()]
    rows.sort(key=lambda row: row["arrival_time"])
    column = {
        name: np.array([float(row[name]) for row in rows])
        for name in ("arrival_time", "queued_ts", "first_token_ts", "last_token_ts", "output_toks")
    }
    arrival = column["arrival_time"]
    arrival = arrival + (column["queued_ts"] - arrival).min()
    return _latencies(
        arrival, column["first_token_ts"], column["last_token_ts"], column["output_toks"]
    )


def _latencies(arrival: Seconds, first: Seconds, last: Seconds, output: Seconds) -> Latencies:
    several = output > 1
    tpot = (last - first)[several] / (output[several] - 1)
    return Latencies(first - arrival, tpot, last - arrival)


def _simulate(
    spec: EngineSpec, engines: int, trace: list[TraceRequest]
) -> tuple[Latencies, list[EngineActor]]:
    world = World(seed=0)
    first: dict[str, float] = {}
    last: dict[str, float] = {}

    def stepped(result: StepResult) -> None:
        for request_id in result.first:
            first[request_id] = world.now_s
        for finished in result.finished:
            last[finished.request_id] = world.now_s

    actors = [EngineActor(world, SimEngine(spec), stepped) for _ in range(engines)]

    def arrive(number: int) -> None:
        # vLLM's data-parallel client: 4 per waiting and 1 per running request.
        actor = min(actors, key=lambda actor: 4 * actor.engine.waiting + actor.engine.running)
        request_id = RequestId(str(number))
        actor.add(engine_request(trace[number], request_id, number, spec.block_size))

    for number, request in enumerate(trace):
        world.at(round(request.arrival_s * 1e9), partial(arrive, number))
    world.run()
    for actor in actors:
        actor.engine.check()
    ids = [str(number) for number in range(len(trace))]
    latencies = _latencies(
        np.array([request.arrival_s for request in trace]),
        np.array([first[name] for name in ids]),
        np.array([last[name] for name in ids]),
        np.array([float(request.output_tokens) for request in trace]),
    )
    return latencies, actors
