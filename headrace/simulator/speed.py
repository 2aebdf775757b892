"""What a router may presume of a simulated engine before it has measured it. Pure."""

from __future__ import annotations

from headrace.core.endpoint import Speed
from headrace.simulator.spec import EngineSpec
from headrace.simulator.steptime import BatchShape, StepTime


def presumed_speed(spec: EngineSpec) -> Speed:
    """Return prompt tokens per second of an otherwise idle engine, and what is known of its KV.

    The rate is that of one full prefill step at the start of a prompt.
    """
    shape = BatchShape(sampled=1)
    shape.add(0, max(2, spec.max_num_batched_tokens))
    step_s = StepTime(spec).cost(shape).seconds
    return Speed(
        shape.tokens / step_s,
        spec.blocks * spec.block_size,
        transfer_tokens_per_s=spec.kv_transfer_bytes_per_s / spec.model.kv_bytes_per_token,
        adapter_load_ms=0.0,  # it has no files to fetch
        adapter_swap_ms=spec.lora_load_s * 1_000.0,
        sequences=spec.max_num_seqs,
    )
