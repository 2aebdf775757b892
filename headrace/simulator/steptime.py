"""How long one step takes: a roofline over the card's and the model's numbers. Pure.

Three terms are added, each the slower of its compute and its memory traffic (Williams, Waterman
and Patterson, "Roofline", CACM 52(4), 2009): the layers' matrices, attention, and the output head
on the sequences that sample. Around them: traffic of the activations, all-reduces under tensor
parallelism, and a fixed cost per step. ``docs/simulator.md`` says how well it does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from headrace.simulator.spec import EngineSpec

COMPUTE_EFFICIENCY: Final = 0.80
MEMORY_EFFICIENCY: Final = 0.85


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


class StepTime:
    """Step durations of one engine; stateless after construction."""

    def __init__(
        self,
        spec: EngineSpec,
        compute_efficiency: float = COMPUTE_EFFICIENCY,
        memory_efficiency: float = MEMORY_EFFICIENCY,
    ) -> None:
        model, card, tp = spec.model, spec.hardware, spec.tp
        self._flops = card.bf16_flops * compute_efficiency
        self._bandwidth = card.memory_bytes_per_s * memory_efficiency
        self._experts = model.experts
        self._miss = 1.0 - model.experts_per_token / model.experts if model.experts else 1.0
        fixed = model.attention_params + model.router_params
        fixed += 0 if model.experts else model.expert_params
        self._weight_bytes = model.layers * fixed * model.weight_bytes / tp
        self._expert_bytes = model.layers * model.expert_params * model.weight_bytes / tp
        self._token_flops = 2.0 * model.active_params / tp
        self._pair_flops = 4.0 * model.layers * model.heads * model.head_dim / tp
        self._kv_bytes = model.kv_bytes_per_token / tp
        self._head_flops = 2.0 * model.head_params / tp
        self._head_bytes = model.head_params * model.weight_bytes / tp
        ffn = model.intermediate * max(1, model.experts_per_token)
        self._activation_bytes = model.layers * 2.0 * (8 * model.hidden + 3 * ffn / tp)
        self._fixed_s = 3e-6 * 8 * model.layers + 0.3e-3
        self._allreduce_latency_s = 2 * model.layers * card.link_latency_s if tp > 1 else 0.0
        self._allreduce_s = (
            2 * model.layers * model.hidden * 2.0 * 2 * (tp - 1) / tp / card.link_bytes_per_s
        )

    def seconds(self, shape: BatchShape) -> float:
        """Return the duration of a step."""
        tokens = shape.tokens
        weights = self._weight_bytes
        if self._experts:
            weights += self._expert_bytes * self._experts * (1.0 - self._miss**tokens)
        linear_s = max(tokens * self._token_flops / self._flops, weights / self._bandwidth)
        prefill_s = max(
            shape.prefill_pairs * self._pair_flops / self._flops,
            shape.prefill_context * self._kv_bytes / self._bandwidth,
        )
        decode_s = shape.decode_context * self._kv_bytes / self._bandwidth
        head_s = max(
            shape.sampled * self._head_flops / self._flops, self._head_bytes / self._bandwidth
        )
        other_s = tokens * (self._activation_bytes / self._bandwidth + self._allreduce_s)
        other_s += self._fixed_s + self._allreduce_latency_s
        return linear_s + prefill_s + decode_s + head_s + other_s

    def growth_s(self, decodes: int) -> float:
        """Return how much longer each step of a pure decode batch takes than the one before."""
        return decodes * self._kv_bytes / self._bandwidth
