"""NVIDIA Dynamo's KV router. Pure.

Source: lib/kv-router/src/scheduling/selector/default.rs and the active sequences of ai-dynamo
1.6.1: ``max(0, (active prefill tokens + prompt) / block - overlap) + decode blocks`` with
``prefill_load_scale`` and ``overlap_score_credit`` 1, decay and ``decode_active_request_weight`` 0,
temperature 0, its queue off, output blocks not tracked.
"""

from __future__ import annotations

from typing_extensions import override

from bench.rivals.rival import Choice, Known, Rule
from headrace.core.request import RouteRequest


class Dynamo(Rule):
    """The lowest cost in blocks; equals by lot.

    It has the overlap from KV events; prefill tokens and distinct blocks of its own active
    requests, the former until their first token. The oracle form has the engines' pending prompt
    tokens and used blocks, and the overlap without lag.
    """

    def __init__(self, known: Known) -> None:
        self._known = known

    @override
    def choose(self, request: RouteRequest, now_s: float) -> Choice:
        known = self._known
        block_tokens = known.scheme.block_tokens
        cached, active = known.cached_tokens(request), known.pending_tokens()
        costs = [
            max(0.0, (active[index] + request.prompt_tokens - cached[index]) / block_tokens)
            + decode_blocks
            for index, decode_blocks in enumerate(self._decode_blocks(request))
        ]
        index = known.lowest(costs)
        return Choice(index, request.prompt_tokens - cached[index])

    def _decode_blocks(self, request: RouteRequest) -> list[float]:
        """Return each endpoint's active blocks were the request there too."""
        known, keys = self._known, self._known.keys(request)
        new = [len(keys) - depth for depth in known.flights.depths(keys)]
        if not known.oracle:
            return [blocks + more for blocks, more in zip(known.flights.blocks, new, strict=True)]
        block_tokens = known.scheme.block_tokens
        return [
            engine.kv_used_ratio * kv_tokens / block_tokens + more
            for engine, kv_tokens, more in zip(known.engines(), known.kv_tokens, new, strict=True)
        ]
