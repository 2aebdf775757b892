"""AIBrix's port of Preble, ``prefix-cache-preble``. Pure.

Source: pkg/plugins/gateway/algorithms/prefix_cache_preble.go and prefixcacheindexer/tree.go of
vllm-project/aibrix, 2026-08, with their defaults: Preble's cost model for Mistral 7B scaled to a
V100, whatever the engines really are.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from typing_extensions import override

from bench.rivals.radix import Node, RadixTree
from bench.rivals.rival import Choice, Known, Rule
from headrace.core.request import RouteRequest

MATCH_RATIO: Final = 0.5
"""``prefixRoutingThreshold``."""

WINDOW_S: Final = 180.0
"""``SLIDING_WINDOW_PERIOD``."""

TTL_S: Final = 300.0
"""``evictionDuration`` of the tree."""

DECODE_S: Final = 45 * 0.15
"""``DECODING_LENGTH`` times the time per token that it presumes and never measures."""

BLOCK_TOKENS: Final = 64
"""Of a routing block; the port has tokens, so up to 63 of a match are not seen here."""


def prefill_s(tokens: int, context_tokens: int) -> float:
    """Return the seconds that ``tokens`` at the end of a prefix of ``context_tokens`` take."""
    if tokens >= 384:
        linear_ms = 0.27106428 * tokens + 10.52444263
    elif tokens >= 192:
        linear_ms = -295 + 3.125 * tokens - 6.4e-3 * tokens**2
    else:
        linear_ms = 55.0
    attention_ms = 0.80
    if context_tokens > 1024:
        attention_ms = 4.65e-4 * context_tokens + 0.398
        if (tokens or context_tokens) <= 1024:
            attention_ms /= 2
    if tokens >= 4096:
        attention_ms += -18.425 + 9.65e-3 * tokens + 5.4e-6 * tokens**2
    return (linear_ms + attention_ms) / 1_000.0 / 0.9


class Preble(Rule):
    """The longest match if it is more than half of the prompt, else the lowest cost of late.

    An endpoint's cost is that of the requests of the last three minutes, counted where their
    prompts end in the tree, whether or not they have ended. Of several endpoints with the longest
    match it takes the one with the fewest such requests. Equals by lot, as Go walks its maps.
    """

    def __init__(self, known: Known) -> None:
        self._known = known
        self._costs_s = [0.0] * known.size
        self._loads = [0] * known.size
        self._tree = RadixTree(TTL_S, self._forget, self._count)
        self._window: deque[tuple[float, Node]] = deque()

    @override
    def choose(self, request: RouteRequest, now_s: float) -> Choice:
        self._expire(now_s)
        node, known_blocks = self._tree.add(request.blocks, now_s)
        index = None
        if known_blocks > MATCH_RATIO * len(request.blocks):
            index = self._matched(node)
        if index is None:
            index = self._known.lowest(self._costs_s)
        self._tree.hold(node, index)
        self._forget(node)
        node.count += 1
        node.hit_blocks += node.start
        node.asked_blocks += node.end
        self._count(node)
        self._window.append((now_s, node))
        return Choice(index)

    def _matched(self, node: Node) -> int | None:
        """Return the least loaded of those with the longest match, or None if nobody has one."""
        for above in node.upwards():
            if above.holders:
                who = [i for i in range(self._known.size) if above.holders >> i & 1]
                return who[self._known.lowest([self._loads[index] for index in who])]
        return None

    def _expire(self, now_s: float) -> None:
        for node in self._tree.evict(now_s):
            node.count = 0
        while self._window and self._window[0][0] <= now_s - WINDOW_S:
            node = self._window.popleft()[1]
            if not node.count:
                continue
            self._forget(node)
            node.count -= 1
            node.hit_blocks -= node.start
            node.asked_blocks -= node.end
            if not node.count:
                node.hit_blocks = node.asked_blocks = 0
            self._count(node)

    def _forget(self, node: Node) -> None:
        """Take a node out of the sums, before it changes."""
        self._add(node, -1)

    def _count(self, node: Node) -> None:
        """Put a node into the sums, after it changed."""
        self._add(node, 1)

    def _add(self, node: Node, sign: int) -> None:
        if not node.count or not node.holders:
            return
        cost_s = self._cost_s(node)
        for index in range(self._known.size):
            if node.holders >> index & 1:
                self._loads[index] += sign * node.count
                self._costs_s[index] += sign * cost_s
                if not self._loads[index]:
                    self._costs_s[index] = 0.0  # and not what rounding left

    def _cost_s(self, node: Node) -> float:
        miss_ratio = 1.0
        if node.asked_blocks > 0:
            miss_ratio -= node.hit_blocks / node.asked_blocks
        one_s = prefill_s(node.length * BLOCK_TOKENS, node.end * BLOCK_TOKENS)
        return miss_ratio * node.count * one_s + DECODE_S
