"""How to start vLLM so that it behaves: flags, environment and why. Pure; vLLM is never imported.

Source, unless said otherwise: vLLM 0.32.0 run on CPU (docs/operate/vllm.md).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

from headrace.core.endpoint import KvEventSource, Role
from headrace.runtime.engines.launch import Launch

API_SERVER: Final = "vllm.entrypoints.openai.api_server"

ENV: Final[Mapping[str, str]] = MappingProxyType(
    {
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_PLUGINS": "",
    }
)
"""Set on every engine: it reports to nobody, and loads no plugin that happens to be installed."""

CPU_ENV: Final[Mapping[str, str]] = MappingProxyType(
    {
        # Engine core and worker in one process beside the API server; a third process brings
        # nothing on CPU and binds every engine of a small machine to the same core.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        # The first request for logprobs otherwise compiles for 12 s while all others wait.
        "TORCH_COMPILE_DISABLE": "1",
        "OMP_NUM_THREADS": "1",
    }
)

CPU_BLOCK_TOKENS: Final = 32
"""The CPU attention kernel takes multiples of 32 only, and defaults to 128, which makes short
shared prefixes worthless."""

CPU_MAX_MODEL_TOKENS: Final = 4_096
"""A request may run to the end of the context when the client names no cap; on CPU that must be
near."""

KV_ROLES: Final[Mapping[Role, str]] = MappingProxyType(
    {Role.PREFILL: "kv_producer", Role.DECODE: "kv_consumer"}
)
"""vLLM refuses a connector without ``kv_role``."""

NIXL_PORT: Final = "VLLM_NIXL_SIDE_CHANNEL_PORT"
"""Where a NIXL connector tells others of its memory; engines of one machine must not share it."""


ENABLE_LORA: Final = "--enable-lora"

LORA_ENV: Final[Mapping[str, str]] = MappingProxyType({"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"})
"""Without it there is no ``/v1/load_lora_adapter``."""

RANKS: Final = (8, 16, 32, 64, 128, 256, 320, 512)
"""What ``--max-lora-rank`` takes, but for 1. Source: vLLM 0.32.0, vllm/config/lora.py."""


@dataclass(frozen=True, slots=True)
class VllmOptions:
    """One vLLM engine.

    Attributes:
        python: Python of the environment vLLM is installed in.
        model: A folder or a hub id.
        served_name: The name clients use.
        gpus: Device indexes for CUDA_VISIBLE_DEVICES; empty runs on CPU.
        max_model_tokens: Longest prompt plus output; None is the model's own (CPU: 4,096).
        kv_cache_bytes: Memory for KV blocks on CPU, touched at start. A GPU takes what is free.
        max_queued_requests: Running plus waiting, beyond which it answers 503 at once.
        max_output_tokens: Cap on any request's output; None caps at the context only.
        finish_s: Whole seconds that requests in flight are given after SIGTERM.
        run_dir: A folder with a short path for sockets; None turns KV events off.
        role: Whether it computes prompts, or replies, for other engines.
        kv_transfer: Its KV connector, as ``--kv-transfer-config`` has it; used unless it does both.
        host: The address it listens on.
        extra_args: Appended, so that they win over what is set here.
        extra_env: Likewise.

    """

    python: Path
    model: str
    served_name: str
    gpus: tuple[int, ...] = ()
    max_model_tokens: int | None = None
    kv_cache_bytes: int = 256 * 2**20
    max_queued_requests: int = 1_024
    max_output_tokens: int | None = None
    finish_s: int = 20
    run_dir: Path | None = None
    role: Role = Role.BOTH
    kv_transfer: Mapping[str, object] = field(default_factory=dict)
    host: str = "127.0.0.1"
    extra_args: tuple[str, ...] = ()
    extra_env: Mapping[str, str] = field(default_factory=dict)


def launch(options: VllmOptions, name: str, port: int) -> Launch:
    """Return the process that serves ``options`` on loopback ``port``; ``name`` must be unique."""
    events = _kv_events(options.run_dir, name, options.served_name)
    return Launch(
        program=(str(options.python), "-W", "ignore", "-m", API_SERVER),
        args=tuple(server_args(options, port, events)),
        env={**environment(options), **options.extra_env},
        ports=(port,),
        kv_events=(events,) if events else (),
        roles=(options.role,),
    )


def environment(options: VllmOptions) -> dict[str, str]:
    """Return the variables that must be set before vLLM is imported."""
    if options.gpus:
        return {**ENV, "CUDA_VISIBLE_DEVICES": ",".join(str(gpu) for gpu in options.gpus)}
    return {**ENV, **CPU_ENV}


@dataclass(frozen=True, slots=True)
class LoraOptions:
    """What lets an engine load adapters.

    Attributes:
        slots: Adapters in one step.
        kept: Adapters in memory; at least as many.
        rank: Widest; ``RANKS`` are the ones vLLM has kernels for.

    """

    slots: int
    kept: int
    rank: int

    @property
    def args(self) -> list[str]:
        """Arguments of the API server."""
        flags = [ENABLE_LORA, "--max-loras", str(self.slots), "--max-cpu-loras", str(self.kept)]
        return [*flags, "--max-lora-rank", str(self.rank)]


def server_args(options: VllmOptions, port: int, events: KvEventSource | None) -> list[str]:
    """Return the arguments of the API server.

    Args:
        options: What to serve.
        port: Where.
        events: Where it publishes its KV events; None for nowhere.

    """
    flags = ["--model", options.model, "--served-model-name", options.served_name]
    flags += ["--host", options.host, "--port", str(port)]
    flags += ["--max-num-queued-reqs", str(options.max_queued_requests)]
    # Without it (the default is 0) SIGTERM closes the port and leaves streams hanging for ever.
    flags += ["--shutdown-timeout", str(options.finish_s)]
    # usage.prompt_tokens_details.cached_tokens: how we learn what the prefix cache gave.
    flags += ["--enable-prompt-tokens-details", "--enable-request-id-headers"]
    # The one hash of vLLM's that another language can compute.
    flags += ["--prefix-caching-hash-algo", "sha256_cbor"]
    flags += ["--disable-uvicorn-access-log"]
    if options.gpus:
        if len(options.gpus) > 1:
            flags += ["--tensor-parallel-size", str(len(options.gpus))]
        max_model_tokens = options.max_model_tokens
    else:
        flags += ["--enforce-eager", "--block-size", str(CPU_BLOCK_TOKENS)]
        flags += ["--kv-cache-memory-bytes", str(options.kv_cache_bytes)]
        max_model_tokens = options.max_model_tokens or CPU_MAX_MODEL_TOKENS
    if max_model_tokens is not None:
        flags += ["--max-model-len", str(max_model_tokens)]
    if options.max_output_tokens is not None:
        cap = json.dumps({"max_new_tokens": options.max_output_tokens})
        flags += ["--override-generation-config", cap]
    if events is not None:
        flags += ["--kv-events-config", json.dumps(_events_config(events))]
    if options.role is not Role.BOTH:
        config = {"kv_role": KV_ROLES[options.role], **options.kv_transfer}
        flags += ["--kv-transfer-config", json.dumps(config)]
    return [*flags, *options.extra_args]


def _kv_events(run_dir: Path | None, name: str, served_name: str) -> KvEventSource | None:
    if run_dir is None:
        return None
    return KvEventSource(
        events=f"ipc://{run_dir / name}.ev",
        replay=f"ipc://{run_dir / name}.rp",
        topic=f"kv@{name}@{served_name}",
    )


def _events_config(events: KvEventSource) -> dict[str, object]:
    return {
        "enable_kv_cache_events": True,
        "publisher": "zmq",
        "endpoint": events.events,
        "replay_endpoint": events.replay,
        "topic": events.topic,
    }
