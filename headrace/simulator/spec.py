"""What a simulated engine is made of: card, model, engine settings. Pure.

Everything the step-time model and the KV cache need is derived here from published numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from headrace.core.endpoint import Role
from headrace.core.errors import ConfigError

Scheduling = Literal["fcfs", "priority"]

# Measured on the one public log that records it: RTX 4090, Llama-3.1-8B, vLLM 0.19 with
# max_num_seqs 256 found room for 2,588 blocks in 0.9 x 25,250,627,584 bytes, which leaves
# 1.24 GB beside weights and KV. The sampler's share of that is explained by ``_SAMPLER_BYTES``.
_CONTEXT_BYTES = 600_000_000  # CUDA context, cuBLAS workspaces, NCCL
_SAMPLER_BYTES = 20  # per logit of the dummy sampling run: bf16 + fp32 copies, sort keys, indices


@dataclass(frozen=True, slots=True)
class Hardware:
    """One accelerator card, by its numbers.

    Attributes:
        name: As in ``presets.HARDWARE``.
        memory_bytes: What the driver reports as total.
        memory_bytes_per_s: Peak DRAM bandwidth.
        bf16_flops: What large dense matrix products with fp32 accumulation reach, per second;
            about four fifths of the datasheet's figure where nobody has measured it.
        fp8_flops: The same for fp8; None where the card has no fp8.
        link_bytes_per_s: What a collective moves between peer cards, one direction.
        link_latency_s: Fixed cost of one collective between peers.

    """

    name: str
    memory_bytes: int
    memory_bytes_per_s: float
    bf16_flops: float
    fp8_flops: float | None
    link_bytes_per_s: float
    link_latency_s: float = 10e-6


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A decoder-only transformer, by the numbers of its configuration file.

    A dense model has ``experts`` 0; a mixture routes each token to ``experts_per_token`` of
    ``experts`` feed-forward blocks whose inner width is ``intermediate``.
    """

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied_embeddings: bool = False
    experts: int = 0
    experts_per_token: int = 0
    weight_bytes: float = 2.0
    kv_element_bytes: float = 2.0
    max_context_tokens: int = 131_072

    @property
    def attention_params(self) -> int:
        """Weights of one layer's query, key, value and output projections."""
        q = self.hidden * self.heads * self.head_dim
        kv = self.hidden * self.kv_heads * self.head_dim
        return 2 * q + 2 * kv

    @property
    def expert_params(self) -> int:
        """Weights of one gated feed-forward block (up, gate, down)."""
        return 3 * self.hidden * self.intermediate

    @property
    def router_params(self) -> int:
        """Weights of one layer's expert router; 0 for a dense model."""
        return self.hidden * self.experts

    @property
    def head_params(self) -> int:
        """Weights of the output head, read once per step that samples."""
        return self.hidden * self.vocab

    @property
    def params(self) -> int:
        """All weights, embeddings included."""
        layer = self.attention_params + self.router_params
        layer += self.expert_params * max(1, self.experts)
        return self.layers * layer + self.head_params * (1 if self.tied_embeddings else 2)

    @property
    def active_params(self) -> int:
        """Weights that one token meets, without embeddings and head."""
        per_layer = self.attention_params + self.router_params
        per_layer += self.expert_params * max(1, self.experts_per_token)
        return self.layers * per_layer

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values of one token over all layers."""
        return int(2 * self.layers * self.kv_heads * self.head_dim * self.kv_element_bytes)


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """One simulated engine. Field names follow vLLM's engine arguments where they exist.

    Attributes:
        hardware: The card; ``tp`` of them make one engine.
        model: The model served.
        tp: Tensor parallel degree.
        block_size: Tokens per KV block.
        num_blocks: KV blocks of the engine; None derives them from the card's memory.
        gpu_memory_utilization: Share of the card's memory the engine may use.
        max_num_seqs: Most requests in one step.
        max_num_batched_tokens: Token budget of one step.
        max_model_len: Longest prompt plus output.
        enable_prefix_caching: Whether full blocks are kept for reuse.
        reserve_full_prompt: Admit a waiting request only when its whole known sequence fits,
            not just its next chunk (vLLM's ``scheduler_reserve_full_isl``).
        async_scheduling: Plan a step while the one before it runs, as vLLM does by default;
            what arrives or ends during a step then counts from the step after next.
        scheduling: ``fcfs``, or ``priority`` (lower value first, as in vLLM).
        max_loras: Adapters that fit in one step; 0 for an engine without adapters.
        lora_load_s: Time one step is held up by an adapter that is not resident.
        role: Prefill, decode or both; a decode engine fetches ``kv_transfer_tokens``.
        kv_transfer_bytes_per_s: Bandwidth of that fetch, shared by all fetches of the engine.
        kv_transfer_latency_s: Fixed cost of one fetch.
        record_events: Keep block events for ``drain_events``; whoever sets it must drain.

    """

    hardware: Hardware
    model: ModelShape
    tp: int = 1
    block_size: int = 16
    num_blocks: int | None = None
    gpu_memory_utilization: float = 0.9
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    max_model_len: int | None = None
    enable_prefix_caching: bool = True
    reserve_full_prompt: bool = True
    async_scheduling: bool = True
    scheduling: Scheduling = "fcfs"
    max_loras: int = 0
    lora_load_s: float = 0.02
    role: Role = Role.BOTH
    kv_transfer_bytes_per_s: float = 25e9
    kv_transfer_latency_s: float = 0.002
    record_events: bool = False

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be at least 1"
            for name in ("tp", "block_size", "max_num_seqs", "max_num_batched_tokens")
            if getattr(self, name) < 1
        ]
        if self.num_blocks is not None and self.num_blocks < 1:
            problems.append("num_blocks must be at least 1")
        if not 0.0 < self.gpu_memory_utilization <= 1.0:
            problems.append("gpu_memory_utilization must be in (0, 1]")
        if self.max_loras < 0 or self.lora_load_s < 0.0:
            problems.append("max_loras and lora_load_s must not be negative")
        if self.kv_transfer_bytes_per_s <= 0.0:
            problems.append("kv_transfer_bytes_per_s must be positive")
        if problems:
            raise ConfigError("simulated engine: " + "; ".join(problems))

    @property
    def blocks(self) -> int:
        """KV blocks of the engine, given or derived.

        Raises:
            ConfigError: the model does not fit in the memory of ``tp`` cards.

        """
        if self.num_blocks is not None:
            return self.num_blocks
        model = self.model
        usable = self.hardware.memory_bytes * self.gpu_memory_utilization
        weights = model.params * model.weight_bytes / self.tp
        free = usable - weights - _CONTEXT_BYTES - self._activation_bytes()
        kv = model.kv_bytes_per_token * self.block_size / self.tp
        blocks = int(free // kv)
        if blocks < 1:
            raise ConfigError(
                f"simulated engine: {model.name} ({weights / 1e9:.1f} GB per card at tp={self.tp}) "
                f"leaves no room for KV on {self.hardware.name}; raise tp"
            )
        return blocks

    @property
    def context_tokens(self) -> int:
        """Longest prompt plus output the engine takes."""
        limit = self.max_model_len or self.model.max_context_tokens
        return min(limit, self.blocks * self.block_size)

    def _activation_bytes(self) -> float:
        """Peak of vLLM's profiling run: a full step, or a full sampling batch, per card."""
        model = self.model
        ffn = model.intermediate * max(1, model.experts_per_token)
        per_token = (4 * model.hidden + 3 * ffn / self.tp) * 2.0
        sampling = self.max_num_seqs * model.vocab * _SAMPLER_BYTES
        return max(self.max_num_batched_tokens * per_token, sampling)


def tp_that_fits(hardware: Hardware, model: ModelShape, max_tp: int = 8) -> int:
    """Return the least power of two of cards that hold the model and 16k tokens of KV.

    Raises:
        ConfigError: even ``max_tp`` cards are too small.

    """
    tp = 1
    while tp <= max_tp:
        try:
            if EngineSpec(hardware, model, tp=tp).blocks * 16 >= 16_384:
                return tp
        except ConfigError:
            pass
        tp *= 2
    raise ConfigError(f"{model.name} does not fit on {max_tp} x {hardware.name}")
