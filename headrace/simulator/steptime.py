"""How long one step takes: a roofline over the card's and the model's numbers. Pure.

A step is a sum of parts. The matrices of the layers and the output head cost their arithmetic and
then their memory traffic, one after the other: a kernel that loads a tile, multiplies it and
stores it never hides one fully behind the other, so the two are added, not compared. Attention is
bound by arithmetic (prefill) or by reading the KV cache (decode). Around them: traffic of the
small kernels between the matrices, all-reduces under tensor parallelism, and the host.

Exactly two numbers were fitted, to two logs of real vLLM together: ``COMPUTE_EFFICIENCY`` and
``MEMORY_EFFICIENCY``. ``docs/simulator.md`` tells how, and what error remains.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from headrace.simulator.spec import EngineSpec

COMPUTE_EFFICIENCY: Final = 0.97
"""Share of the card's matrix throughput that the model's matrices and attention reach. Fitted."""

MEMORY_EFFICIENCY: Final = 0.945
"""Share of the card's peak memory bandwidth that kernels reach. Fitted."""

# Floor of one small kernel's duration. Source: aiconfigurator ``systems/*.yaml``,
# ``mem_empirical_constant_latency``, 3 us on every card.
_KERNEL_S: Final = 3e-6
_KERNELS_PER_LAYER: Final = 8  # 4 projections, attention, KV write, 2 fused norm/activation
_MOE_KERNELS_PER_LAYER: Final = 6  # gate, top-k, align, second expert matrix, combine, cast

# Time the engine's Python takes per step. Source: read off 90 vLLM 0.12 points of Qwen3-32B on 2,
# 4 and 8 H100 (aiconfigurator's silicon sample; none of our logs), whose synchronous scheduling
# lets it show: median TPOT error 5 % with it, 21 % without. Hidden under asynchronous scheduling
# unless the card is faster than the host.
_HOST_S: Final = 1.5e-3
_HOST_PER_SEQUENCE_S: Final = 50e-6

# Rows of the tile a fused mixture-of-experts kernel pads each expert's tokens to. Source: vLLM
# ``fused_moe.get_default_config``: 16 while there are no more tokens than experts, else 64.
_EXPERT_TILE: Final = 64
_EXPERT_TILE_SMALL: Final = 16


@dataclass(slots=True)
class BatchShape:
    """What one step computes.

    Attributes:
        tokens: Tokens computed in all.
        sampled: Sequences that sample a token.
        prefill_pairs: Query-key pairs of chunks longer than one token.
        prefill_context: Tokens of context those chunks read, themselves included.
        decode_context: The same for chunks of one token.

    """

    tokens: int = 0
    sampled: int = 0
    prefill_pairs: float = 0.0
    prefill_context: int = 0
    decode_context: int = 0

    def add(self, computed: int, chunk: int) -> None:
        """Add one sequence's chunk that follows ``computed`` tokens."""
        self.tokens += chunk
        if chunk == 1:
            self.decode_context += computed + 1
            return
        self.prefill_pairs += chunk * (computed + (chunk + 1) / 2)
        self.prefill_context += computed + chunk


@dataclass(frozen=True, slots=True)
class StepCost:
    """Duration of a step, and of the decode steps that would follow with the same sequences.

    Step ``i`` after it takes ``seconds + i * growth_s``; that holds for ``steps`` steps.
    """

    seconds: float
    growth_s: float
    steps: int


class StepTime:
    """Step durations of one engine; stateless after construction."""

    def __init__(
        self,
        spec: EngineSpec,
        compute_efficiency: float = COMPUTE_EFFICIENCY,
        memory_efficiency: float = MEMORY_EFFICIENCY,
    ) -> None:
        model, card, tp = spec.model, spec.hardware, spec.tp
        peak_flops = card.bf16_flops
        if model.weight_bytes <= 1.0 and card.fp8_flops is not None:
            peak_flops = card.fp8_flops
        flops = peak_flops * compute_efficiency * tp
        bandwidth = card.memory_bytes_per_s * memory_efficiency * tp
        self._asynchronous = spec.async_scheduling
        # Matrices every token meets.
        shared = model.attention_params + model.router_params
        shared += 0 if model.experts else model.expert_params
        self._weights_s = model.layers * shared * model.weight_bytes / bandwidth
        self._token_s = 2.0 * model.layers * shared / flops
        # Matrices of the experts.
        self._experts = model.experts
        self._experts_per_token = model.experts_per_token
        self._expert_s = model.layers * model.expert_params * model.weight_bytes / bandwidth
        self._expert_row_s = 2.0 * model.layers * model.expert_params / flops
        # Attention and the output head.
        self._pair_s = 4.0 * model.layers * model.heads * model.head_dim / flops
        self._kv_s = model.kv_bytes_per_token / bandwidth
        self._sample_s = 2.0 * model.head_params / flops
        self._head_s = model.head_params * model.weight_bytes / bandwidth
        # Small kernels: two norms and the activation read and write each token's vectors, rotary
        # embedding and the KV write move queries, keys and values.
        ffn = model.intermediate * max(1, model.experts_per_token)
        moved = (8 * model.hidden * tp + 3 * ffn) * 2.0
        self._vectors_s = model.layers * moved / bandwidth
        kernels = _KERNELS_PER_LAYER + (_MOE_KERNELS_PER_LAYER if model.experts else 0)
        self._fixed_s = _KERNEL_S * kernels * model.layers
        # Two all-reduces per layer; a ring moves 2 (tp - 1) / tp of the vector over each link.
        if tp > 1:
            self._fixed_s += 2 * model.layers * card.link_latency_s
            vector = 2 * model.layers * model.hidden * 2.0
            self._vectors_s += vector * 2 * (tp - 1) / tp / card.link_bytes_per_s

    def cost(self, shape: BatchShape) -> StepCost:
        """Return the duration of a step and how it grows while its sequences decode on."""
        device_s = self._device_s(shape)
        growth_s = shape.sampled * self._kv_s
        host_s = _HOST_S + _HOST_PER_SEQUENCE_S * shape.sampled
        if not self._asynchronous:
            return StepCost(device_s + host_s, growth_s, _FOREVER)
        if device_s >= host_s:
            return StepCost(device_s, growth_s, _FOREVER)
        hidden = int((host_s - device_s) / growth_s) if growth_s > 0.0 else _FOREVER
        return StepCost(host_s, 0.0, max(1, hidden))

    def _device_s(self, shape: BatchShape) -> float:
        tokens = shape.tokens
        matrices_s = self._weights_s + tokens * self._token_s
        if self._experts:
            matrices_s += self._experts_s(tokens)
        prefill_s = max(
            shape.prefill_pairs * self._pair_s,
            shape.prefill_context * self._kv_s,
        )
        decode_s = shape.decode_context * self._kv_s
        head_s = (self._head_s + shape.sampled * self._sample_s) if shape.sampled else 0.0
        vectors_s = tokens * self._vectors_s
        return matrices_s + prefill_s + decode_s + head_s + vectors_s + self._fixed_s

    def _experts_s(self, tokens: int) -> float:
        """Expert matrices: those touched are read; each one's rows are padded to a tile.

        With uniform routing a token misses an expert with probability ``1 - k / experts``.
        """
        miss = 1.0 - self._experts_per_token / self._experts
        touched = self._experts * (1.0 - miss**tokens)
        tile = _EXPERT_TILE_SMALL if tokens <= self._experts else _EXPERT_TILE
        rows = tokens * self._experts_per_token + touched * tile / 2
        return touched * self._expert_s + rows * self._expert_row_s


_FOREVER: Final = 1 << 62
