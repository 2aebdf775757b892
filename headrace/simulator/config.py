"""Settings of a process of simulated engines."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from headrace.core.endpoint import Role
from headrace.simulator.presets import hardware_named, model_named
from headrace.simulator.spec import EngineSpec, Hardware, ModelShape, tp_that_fits

_STRICT = ConfigDict(extra="forbid", frozen=True)


class HardwareNumbers(BaseModel):
    """A card that is not among the presets, by its published numbers."""

    model_config = _STRICT

    name: str = Field(description="Only shown.")
    memory_bytes: int = Field(gt=0, description="What the driver reports as total.")
    memory_bytes_per_s: float = Field(gt=0, description="Peak DRAM bandwidth.")
    bf16_flops: float = Field(gt=0, description="Dense tensor throughput per second.")
    fp8_flops: float | None = Field(default=None, gt=0, description="None without fp8.")
    link_bytes_per_s: float = Field(default=32e9, gt=0, description="To a peer, one direction.")

    def build(self) -> Hardware:
        """Return it as the engine core's value."""
        return Hardware(**self.model_dump())


class ModelNumbers(BaseModel):
    """A model that is not among the presets, by the numbers of its ``config.json``."""

    model_config = _STRICT

    name: str = Field(description="The name served unless another is set.")
    layers: int = Field(ge=1, description="Hidden layers.")
    hidden: int = Field(ge=1, description="Width.")
    heads: int = Field(ge=1, description="Attention heads.")
    kv_heads: int = Field(ge=1, description="Key and value heads.")
    head_dim: int = Field(ge=1, description="Width of a head.")
    intermediate: int = Field(ge=1, description="Inner width of a feed-forward block or expert.")
    vocab: int = Field(ge=1, description="Vocabulary size; only its cost matters here.")
    experts: int = Field(default=0, ge=0, description="Experts per layer; 0 for a dense model.")
    experts_per_token: int = Field(default=0, ge=0, description="Experts a token is routed to.")
    max_context_tokens: int = Field(default=131_072, ge=2, description="Longest sequence.")

    def build(self) -> ModelShape:
        """Return it as the engine core's value."""
        return ModelShape(**self.model_dump())


class EngineSettings(BaseModel):
    """One kind of engine. Names follow vLLM's engine arguments where they exist."""

    model_config = _STRICT

    hardware: str | HardwareNumbers = Field(default="H100", description="A preset, or numbers.")
    model: str | ModelNumbers = Field(default="Llama-3.1-8B", description="A preset, or numbers.")
    served_names: tuple[str, ...] = Field(
        default=(), description="Names clients may use, the first is shown; default: the model's."
    )
    tp: int | None = Field(default=None, ge=1, description="Cards; default: the fewest that fit.")
    block_size: int = Field(default=16, ge=1, le=4096, description="Tokens per KV block.")
    num_blocks: int | None = Field(
        default=None, ge=1, description="KV blocks; default: what the card's memory leaves."
    )
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1, description="As in vLLM.")
    max_num_seqs: int = Field(default=256, ge=1, description="Most requests in one step.")
    max_num_batched_tokens: int = Field(default=8192, ge=1, description="Token budget of a step.")
    max_model_len: int | None = Field(
        default=None, ge=2, description="Longest prompt plus output; default: the model's."
    )
    enable_prefix_caching: bool = Field(default=True, description="Keep full blocks for reuse.")
    prefix_caching_hash_algo: Literal["sha256", "sha256_cbor"] = Field(
        default="sha256_cbor",
        description="vLLM's default is sha256, which hashes Python pickles: twice the cost.",
    )
    python_hash_seed: str | None = Field(
        default=None, description="What the hash chain starts from if vLLM's PYTHONHASHSEED is set."
    )
    scheduling: Literal["fcfs", "priority"] = Field(default="fcfs", description="As in vLLM.")
    enable_lora: bool = Field(default=True, description="Whether adapters can be loaded.")
    max_loras: int = Field(default=4, ge=1, description="Adapters in one step.")
    max_cpu_loras: int = Field(default=256, ge=1, description="Adapters known at once.")
    lora_load_s: float = Field(default=0.02, ge=0, description="Cost of one not resident.")
    role: Role = Field(default=Role.BOTH, description="Prefill, decode or both.")
    kv_transfer_bytes_per_s: float = Field(default=25e9, gt=0, description="Of a decode engine.")
    max_num_queued_reqs: int = Field(
        default=4096, ge=1, description="Running plus waiting, beyond which it answers 503."
    )
    mean_output_tokens: float = Field(
        default=256.0, gt=0, description="Mean length of an answer that nothing cuts short."
    )
    enable_auto_tool_choice: bool = Field(
        default=True, description="Accept tools without tool_choice; the answer is then text."
    )

    @model_validator(mode="after")
    def _buildable(self) -> EngineSettings:
        spec = self.spec(record_events=False)
        if spec.context_tokens < 2:
            raise ValueError("num_blocks: too few for a prompt and an output token")
        return self

    def shape(self) -> ModelShape:
        """Return the model served."""
        return model_named(self.model) if isinstance(self.model, str) else self.model.build()

    def names(self) -> tuple[str, ...]:
        """Return the names of the base model, the shown one first."""
        return self.served_names or (self.shape().name,)

    def spec(self, *, record_events: bool) -> EngineSpec:
        """Return the engine core's value.

        Raises:
            ConfigError: an unknown preset (the message lists those there are), or no fit.

        """
        hardware = self.hardware
        card = hardware_named(hardware) if isinstance(hardware, str) else hardware.build()
        shape = self.shape()
        return EngineSpec(
            card,
            shape,
            tp=self.tp or tp_that_fits(card, shape),
            block_size=self.block_size,
            num_blocks=self.num_blocks,
            gpu_memory_utilization=self.gpu_memory_utilization,
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens,
            max_model_len=self.max_model_len,
            enable_prefix_caching=self.enable_prefix_caching,
            scheduling=self.scheduling,
            max_loras=self.max_loras if self.enable_lora else 0,
            lora_load_s=self.lora_load_s,
            role=self.role,
            kv_transfer_bytes_per_s=self.kv_transfer_bytes_per_s,
            record_events=record_events,
        )


class KvEventSettings(BaseModel):
    """Publishing of KV events; ``{engine}`` in an address is replaced by the engine's index."""

    model_config = _STRICT

    enabled: bool = Field(default=False, description="Whether to publish.")
    endpoint: str = Field(
        default="tcp://127.0.0.1:0",
        description="PUB socket. Port 0: the system chooses (see GET /kv_event_sources); a higher "
        "port is that of engine 0, the others follow.",
    )
    bind: bool | None = Field(
        default=None,
        description="Bind the PUB socket or connect it; null: as vLLM does, bind ipc, wildcards "
        "and port 0, connect to other addresses.",
    )
    replay_endpoint: str | None = Field(
        default="tcp://127.0.0.1:0", description="ROUTER socket, always bound; null for none."
    )
    topic: str = Field(default="", description="First frame of every message; {engine} works here.")
    buffer_steps: int = Field(default=10_000, ge=1, description="Batches kept for replay.")
    hwm: int = Field(default=100_000, ge=1, description="Batches kept for a slow subscriber.")

    @model_validator(mode="after")
    def _addresses(self) -> KvEventSettings:
        for name in ("endpoint", "replay_endpoint"):
            address = getattr(self, name)
            if address is not None and not address.startswith(("tcp://", "ipc://")):
                raise ValueError(f"{name}: must start with tcp:// or ipc://")
        return self


class LimitSettings(BaseModel):
    """Bounds of each engine's HTTP server."""

    model_config = _STRICT

    connections: int = Field(default=4096, ge=1, description="Open at once.")
    header_bytes: int = Field(default=65_536, ge=1024, description="Headers of one request.")
    body_bytes: int = Field(default=64 << 20, ge=1024, description="Longer is answered with 413.")
    unread_bytes: int = Field(
        default=4 << 20, ge=65_536, description="What a client may leave unread of a stream."
    )
    keep_alive_s: float = Field(
        default=5.0, gt=0, description="Idle connections close after this; vLLM's default is 5."
    )


class SimulatorSettings(BaseModel):
    """A process of simulated engines, all of one kind; only their roles may differ."""

    model_config = _STRICT

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(
        default=0,
        ge=0,
        le=65_535,
        description="Of engine 0, the others follow; 0: the system chooses each.",
    )
    ports: tuple[int, ...] = Field(default=(), description="One per engine; wins over port.")
    count: int = Field(default=1, ge=1, le=256, description="Engines.")
    time_scale: float = Field(default=1.0, gt=0, le=1000, description="Engine seconds per second.")
    max_lag_s: float = Field(
        default=1.0,
        ge=0,
        description="An engine this far behind its schedule for want of CPU gives up catching up.",
    )
    drain_s: float = Field(
        default=20.0, ge=0, description="After SIGTERM, for requests under way to end."
    )
    seed: int = Field(default=0, ge=0, description="Of generated text and of faults.")
    engine: EngineSettings = Field(default_factory=EngineSettings)
    roles: tuple[Role, ...] = Field(
        default=(), description="Prefill, decode or both, of each engine; wins over engine.role."
    )
    kv_events: KvEventSettings = Field(default_factory=KvEventSettings)
    limits: LimitSettings = Field(default_factory=LimitSettings)

    @model_validator(mode="after")
    def _ports_fit(self) -> SimulatorSettings:
        if self.ports and len(self.ports) != self.count:
            raise ValueError(f"ports: {len(self.ports)} given for {self.count} engine(s)")
        if self.roles and len(self.roles) != self.count:
            raise ValueError(f"roles: {len(self.roles)} given for {self.count} engine(s)")
        if not self.ports and self.port and self.port + self.count - 1 > 65_535:
            raise ValueError("port: too high for this many engines")
        return self

    def role_of(self, index: int) -> Role:
        """Return what engine ``index`` does."""
        return self.roles[index] if self.roles else self.engine.role

    def port_of(self, index: int) -> int:
        """Return the port engine ``index`` listens on; 0 when the system chooses."""
        if self.ports:
            return self.ports[index]
        return self.port + index if self.port else 0
