"""One request inside an engine. Pure.

Tokens of a sequence, as vLLM counts them:

    0 ........ cached ........ computed ........ total ........ goal
    | found in the cache or    | this step's     | still to be   |
    | computed before          | ``chunk`` next  | generated     |

``total`` grows by one with each token sampled; a token is sampled when ``computed`` reaches it.
"""

from __future__ import annotations

from headrace.simulator.requests import BlockKey, EngineRequest


class Sequence:
    """The engine's books on one request; owned by the scheduler.

    Attributes:
        keys: Its full blocks in prefix order; None for a block that is private to it.
        held: Blocks it holds in all, full or not.
        cached_tokens: Prompt tokens found cached at first admission; -1 before.
        ready_s: When the KV it fetches from another engine is here; None when it fetches none.

    """

    __slots__ = (
        "cached_tokens",
        "chunk",
        "computed",
        "fetched",
        "goal",
        "held",
        "keys",
        "number",
        "queued_s",
        "ready_s",
        "request",
        "total",
    )

    def __init__(self, request: EngineRequest, number: int, queued_s: float) -> None:
        self.request = request
        self.number = number
        self.queued_s = queued_s
        self.computed = 0
        self.total = request.prompt_tokens
        self.goal = request.prompt_tokens + request.output_tokens
        self.chunk = 0
        self.keys: list[BlockKey | None] = []
        self.held = 0
        self.cached_tokens = -1
        self.fetched = False
        self.ready_s: float | None = None

    @property
    def output_tokens(self) -> int:
        """Tokens generated so far."""
        return self.total - self.request.prompt_tokens

    def key_of(self, index: int, block_size: int) -> BlockKey | None:
        """Return the key of its full block ``index``, or None when that is never shared."""
        request = self.request
        if index < len(request.block_keys):
            return request.block_keys[index]
        if request.output_keys is None or index < request.prompt_tokens // block_size:
            return None
        return request.output_keys(index)
