"""Settings of a fleet."""

from __future__ import annotations

import sys
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, model_validator

from controller.fleets.ray.config import RaySettings
from controller.fleets.restart import RestartPolicy
from headrace.core.endpoint import Role, Speed
from headrace.runtime.config import ProbeSettings
from headrace.runtime.engines.launch import EngineKind
from headrace.simulator.config import EngineSettings

VLLM_HERE: Final = Path(".cache/vllm/bin/python")
"""Where ``scripts/install-vllm`` puts it."""


class RestartSettings(BaseModel):
    """When a crashed engine is started again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: int = Field(
        default=5, ge=1, le=1_000, description="Crashes within window_s that end the attempts."
    )
    limit_before_ready: int = Field(
        default=2,
        ge=1,
        le=1_000,
        description="The same for an engine that has never served: most likely it cannot.",
    )
    first_s: float = Field(
        default=0.5, ge=0, le=600, description="Wait after a crash; each further one doubles it."
    )
    most_s: float = Field(default=30.0, ge=0, le=3_600, description="Longest wait.")
    window_s: float = Field(default=600.0, gt=0, le=86_400, description="How long a crash counts.")

    def policy(self) -> RestartPolicy:
        """Return these settings as the value that decides."""
        return RestartPolicy(**self.model_dump())


class FleetTimeouts(BaseModel):
    """How long each step of an engine's life may take. Seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    start_s: float = Field(
        default=600.0,
        gt=0,
        le=7_200,
        description="From starting an engine to its first token; a 70B model loads for minutes.",
    )
    unready_s: float = Field(
        default=120.0,
        gt=0,
        le=7_200,
        description="An engine that served, still runs, and has no endpoint ready for this long "
        "hangs: it is killed and started again.",
    )
    drain_s: float = Field(
        default=30.0,
        ge=0,
        le=3_600,
        description="For requests in flight to end before an engine is told to.",
    )
    settle_s: float = Field(
        default=2.0,
        ge=0,
        le=600,
        description="Where gateways are apart (headrace fleet, Ray): how long an engine must have "
        "been idle, by its own count, before it is told to end, and how long a new replica on Ray "
        "must have served before it replaces an old one. Gateways need a moment to see either: "
        "more than two of their looks at Ray.",
    )
    finish_s: int = Field(
        default=20,
        ge=0,
        le=3_600,
        description="What the engine itself then allows requests in flight "
        "(vLLM's --shutdown-timeout; 0 would leave their streams hanging).",
    )
    kill_after_s: float = Field(
        default=5.0,
        gt=0,
        le=600,
        description="Beyond finish_s, after which the engine's whole process group is killed.",
    )


class FleetKind(StrEnum):
    """Where engines run."""

    LOCAL = "local"
    RAY = "ray"


class FleetSettings(BaseModel):
    """Engines on this machine or on a Ray cluster, started and kept running by us."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: FleetKind = Field(
        default=FleetKind.LOCAL, description="Where engines run: local (this machine) or ray."
    )
    engine: EngineKind = Field(
        default=EngineKind.SIMULATED, description="What to run: simulated or vllm."
    )
    model: str | None = Field(
        default=None,
        min_length=1,
        description="vLLM: a folder or a hub id. Simulated: the name served, if not its model's.",
    )
    served_name: str | None = Field(
        default=None,
        min_length=1,
        description="The name clients use; default: the model's last path part.",
    )
    replicas: int = Field(default=4, ge=1, le=256, description="Engines to run.")
    roles: tuple[Role, ...] = Field(
        default=(),
        description="Of each replica, in order: prefill (computes prompts for others), decode or "
        "both. Default: all do both.",
    )
    kv_transfer: dict[str, Any] = Field(
        default_factory=lambda: {"kv_connector": "NixlConnector"},
        description="vLLM: its KV connector, as --kv-transfer-config has it, for replicas whose "
        "role is prefill or decode; kv_role is filled in.",
    )
    transfer_tokens_per_s: float | None = Field(
        default=None,
        gt=0,
        description="Tokens per second whose KV a replica takes from another: what the network "
        "between them moves, over the bytes of a token's KV. Default: simulated, what it is "
        "simulated with; vLLM, 100,000 (an 8B model over half of 200 Gbit/s).",
    )
    tp: int | None = Field(
        default=None,
        ge=1,
        le=64,
        description="Cards per engine (tensor parallel). vLLM: of gpus, default 1. Simulated: wins "
        "over simulated.tp.",
    )
    pp: int = Field(
        default=1, ge=1, le=64, description="Ray and vLLM: pipeline stages of each engine."
    )
    nodes: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Ray: nodes of each replica; its tp x pp cards are shared out evenly. The "
        "engine is started once all have joined, and anew when one is lost.",
    )
    ray: RaySettings = Field(default_factory=RaySettings)
    time_scale: float = Field(
        default=1.0, gt=0, le=1_000, description="Simulated: engine seconds per wall second."
    )
    seed: int = Field(default=0, ge=0, description="Simulated: of generated text.")
    simulated: EngineSettings = Field(
        default_factory=EngineSettings,
        description="Simulated: card, model and settings of each engine.",
    )
    python: Path | None = Field(
        default=None,
        description="vLLM: the Python of its environment; default: .cache/vllm, made by "
        "scripts/install-vllm, else our own if vLLM is installed beside us.",
    )
    gpus: tuple[int, ...] = Field(
        default=(),
        description="vLLM: device indexes, dealt to the engines in order, tp each; empty: CPU.",
    )
    prefork: bool | None = Field(
        default=None,
        description="vLLM: import it once and fork every engine from that image, which starts in "
        "seconds and shares memory. Default: on CPU yes, on GPUs no.",
    )
    starts_at_once: int = Field(
        default=4, ge=1, le=256, description="Engines that are being started at the same time."
    )
    max_model_tokens: int | None = Field(
        default=None,
        ge=1,
        description="vLLM: longest prompt plus output; default: the model's own (CPU: 4096).",
    )
    max_output_tokens: int | None = Field(
        default=None,
        ge=1,
        description="vLLM: cap on any request's output. Without one, a request that names none "
        "may run to the end of the context.",
    )
    max_queued_requests: int = Field(
        default=1_024, ge=1, description="vLLM: requests in an engine before it answers 503."
    )
    kv_cache_bytes: int = Field(
        default=256 << 20,
        ge=1 << 20,
        description="vLLM on CPU: memory for KV blocks, touched at start.",
    )
    kv_events: bool = Field(
        default=True, description="Have engines publish what their prefix caches hold."
    )
    engine_args: tuple[str, ...] = Field(
        default=(), description="Appended to the engine's command line; they win over ours."
    )
    env: dict[str, str] = Field(
        default_factory=dict, description="Variables for the engines; they win over ours."
    )
    state_dir: Path | None = Field(
        default=None,
        description="Where logs go. Default: a temporary folder, removed at the end of a run "
        "in which nothing crashed.",
    )
    log_limit_bytes: int = Field(
        default=64 << 20,
        ge=1 << 16,
        description="An engine's log is cut to its last part when it grows beyond this.",
    )
    timeouts: FleetTimeouts = Field(default_factory=FleetTimeouts)
    restart: RestartSettings = Field(default_factory=RestartSettings)
    probe: ProbeSettings = Field(default_factory=ProbeSettings)

    @model_validator(mode="after")
    def _fits_together(self) -> FleetSettings:
        if self.engine is EngineKind.VLLM and self.model is None:
            raise ValueError("model: needed when engine is vllm (a folder or a hub id)")
        self._fits_its_kind()
        if self.roles and len(self.roles) != self.replicas:
            raise ValueError(f"roles: {len(self.roles)} given for {self.replicas} replica(s)")
        if self.roles and set(self.roles) == {Role.PREFILL}:
            raise ValueError("roles: at least one replica must be decode or both, to reply")
        if self.gpus and len(self.gpus) < self.replicas * self.cards:
            raise ValueError(
                f"gpus: {self.replicas} replica(s) of {self.cards} card(s) need "
                f"{self.replicas * self.cards}, {len(self.gpus)} are given"
            )
        if len(set(self.gpus)) != len(self.gpus):
            raise ValueError("gpus: an index is given twice")
        return self

    def _fits_its_kind(self) -> None:
        if self.kind is FleetKind.RAY:
            if self.gpus:
                raise ValueError("gpus: Ray deals them; see ray.cards_per_node")
            if self.engine is EngineKind.VLLM and self.cards * self.pp % self.nodes:
                raise ValueError(
                    f"nodes: tp x pp is {self.cards * self.pp}, "
                    f"which {self.nodes} nodes cannot share evenly"
                )
            return
        if self.engine is EngineKind.VLLM and not self.gpus and self.cards > 1:
            raise ValueError("tp: more than 1 needs gpus")
        if self.nodes > 1 or self.pp > 1:
            raise ValueError("nodes, pp: more than 1 needs kind ray")

    @property
    def name_served(self) -> str:
        """The name clients use."""
        if self.served_name is not None:
            return self.served_name
        if self.engine is EngineKind.SIMULATED:
            return self.model or self.simulated.names()[0]
        assert self.model is not None
        return self.model.rstrip("/").rsplit("/", 1)[-1]

    @property
    def speed(self) -> Speed:
        """What is presumed of each engine until it has been measured."""
        rate, simulated = self.transfer_tokens_per_s, self.engine is EngineKind.SIMULATED
        if rate is None and simulated:
            kv_bytes = self.simulated.shape().kv_bytes_per_token
            rate = self.simulated.kv_transfer_bytes_per_s / kv_bytes
        speed = Speed(sequences=self.simulated.max_num_seqs if simulated else None)
        return speed if rate is None else replace(speed, transfer_tokens_per_s=rate)

    @property
    def cards(self) -> int:
        """Cards of each vLLM engine, where it has any."""
        return self.tp or 1

    @property
    def preforks(self) -> bool:
        """Whether engines are forked from one image."""
        if self.engine is EngineKind.SIMULATED:
            return False
        return not self.gpus if self.prefork is None else self.prefork

    @property
    def own_python(self) -> Path:
        """The interpreter we run in."""
        return Path(sys.executable)
