"""How each engine is started in a pod. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

from controller.api.model_service import Engine, ModelServiceSpec, Variant
from controller.models.words import ENGINE_PORT, EVENTS_PORT, REPLAY_PORT
from headrace.core.endpoint import KvEventSource, Role
from headrace.runtime.engines import vllm

ANYWHERE: Final = "0.0.0.0"  # noqa: S104 -- a pod's own address
FINISH_S: Final = 20
"""What the engine itself allows streams after SIGTERM; by then they have been waited for."""


@dataclass(frozen=True, slots=True)
class Command:
    """A container's command line and environment."""

    command: tuple[str, ...]
    args: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)


def command(spec: ModelServiceSpec, variant: Variant, served_name: str, model: str) -> Command:
    """Return how the engine of a replica is started.

    Args:
        spec: The service's.
        variant: The replica's.
        served_name: What clients call the model.
        model: A folder that the engine sees, or a hub id; "" for simulated engines.

    """
    made = _STARTS[spec.engine.kind](spec, variant, served_name, model)
    extra = (*spec.engine.args, *variant.args)
    return Command(made.command, (*made.args, *extra), made.env)


def _simulated(spec: ModelServiceSpec, variant: Variant, served_name: str, _: str) -> Command:
    simulated = spec.engine.simulated
    args = ["--host", ANYWHERE, "--ports", str(ENGINE_PORT), "--served-name", served_name]
    args += ["--hardware", simulated.hardware, "--model", simulated.model]
    args += ["--time-scale", f"{simulated.time_scale:g}"]
    args += ["--set", f"drain_s={FINISH_S}", "--set", f"engine.role={variant.role}"]
    if variant.accelerator is not None:
        args += ["--tp", str(variant.tensor_parallel)]
    if spec.engine.kv_events:
        args += ["--kv-events-endpoint", f"tcp://*:{EVENTS_PORT}"]
        args += ["--kv-replay-endpoint", f"tcp://*:{REPLAY_PORT}"]
    if spec.lora is None:
        args += ["--set", "engine.enable_lora=false"]
    else:
        args += ["--set", f"engine.max_loras={spec.lora.max_loras}"]
        args += ["--set", f"engine.max_cpu_loras={spec.lora.max_cpu_loras}"]
    return Command(("python", "-m", "headrace.simulator.http"), tuple(args))


def _vllm(spec: ModelServiceSpec, variant: Variant, served_name: str, model: str) -> Command:
    cards = variant.tensor_parallel if variant.accelerator is not None else 0
    options = vllm.VllmOptions(
        python=Path("python3"),
        model=model,
        served_name=served_name,
        gpus=tuple(range(cards)),
        role=Role(variant.role),
        kv_transfer={"kv_connector": "NixlConnector"},
        finish_s=FINISH_S,
        host=ANYWHERE,
    )
    args = vllm.server_args(
        options, ENGINE_PORT, _events(served_name) if spec.engine.kv_events else None
    )
    env = dict(vllm.ENV) if cards else {**vllm.ENV, **vllm.CPU_ENV}
    if variant.pipeline_parallel > 1:
        args += ["--pipeline-parallel-size", str(variant.pipeline_parallel)]
    if variant.nodes > 1:
        args += ["--distributed-executor-backend", "ray"]
    if spec.lora is not None:
        lora = spec.lora
        env |= vllm.LORA_ENV
        args += vllm.LoraOptions(lora.max_loras, lora.max_cpu_loras, lora.max_rank).args
    return Command(("python3", "-W", "ignore", "-m", vllm.API_SERVER), tuple(args), env)


def _sglang(spec: ModelServiceSpec, variant: Variant, served_name: str, model: str) -> Command:
    """Source: SGLang 0.5.23, python/sglang/srt/server_args.py. Never run here: it needs a GPU."""
    args = ["--model-path", model, "--served-model-name", served_name]
    args += ["--host", ANYWHERE, "--port", str(ENGINE_PORT), "--enable-metrics"]
    args += ["--tp-size", str(variant.tensor_parallel), "--pp-size", str(variant.pipeline_parallel)]
    args += ["--enable-cache-report"]
    if spec.engine.kv_events:
        events = {
            "publisher": "zmq",
            "endpoint": f"tcp://*:{EVENTS_PORT}",
            "replay_endpoint": f"tcp://*:{REPLAY_PORT}",
            "topic": f"kv@{served_name}",
        }
        args += ["--kv-events-config", json.dumps(events)]
    if variant.role != "both":
        args += ["--disaggregation-mode", variant.role]
    if spec.lora is not None:
        args += ["--enable-lora", "--max-loras-per-batch", str(spec.lora.max_loras)]
        args += ["--max-loaded-loras", str(spec.lora.max_cpu_loras)]
        args += ["--max-lora-rank", str(spec.lora.max_rank), "--lora-target-modules", "all"]
    return Command(("python3", "-m", "sglang.launch_server"), tuple(args))


def _events(served_name: str) -> KvEventSource:
    return KvEventSource(
        f"tcp://*:{EVENTS_PORT}", f"tcp://*:{REPLAY_PORT}", topic=f"kv@{served_name}"
    )


_Start = Callable[[ModelServiceSpec, Variant, str, str], Command]

_STARTS: Final[Mapping[Engine, _Start]] = MappingProxyType(
    {Engine.SIMULATED: _simulated, Engine.VLLM: _vllm, Engine.SGLANG: _sglang}
)
