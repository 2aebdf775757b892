"""Learns how fast an endpoint computes prompts, from what happened there in the order it did. Pure.

News of other gateway replicas come late. Learned from at once, ours would seem to have taken the
time of prompts before it that nobody had told us of; so everything waits until news of that time
must be here.
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heappop, heappush

from router.speed import STEP_S, PrefillSpeed


@dataclass(frozen=True, slots=True)
class Computed:
    """A prompt that has had its first token.

    ``beside_tokens`` are the KV tokens of those that were there when it was sent.
    """

    miss_tokens: float
    miss_pairs: float
    beside_tokens: float
    dispatched_s: float


@dataclass(frozen=True, slots=True)
class Freed:
    """The endpoint was free for the next prompt; nothing can be learned from how it came to that.

    ``left``: a request left without a first token. Nobody knows how much of it was computed, so
    nothing is learned from the next step either.
    """

    frees: bool = True
    left: bool = False


class Learning:
    """One endpoint's. All times are engine seconds.

    Attributes:
        speed: What is learned.
        late_s: How late news of other replicas come, as a rule at most; 0 without any.

    """

    def __init__(self, speed: PrefillSpeed) -> None:
        self.speed = speed
        self.late_s = 0.0
        self._past: list[tuple[float, int, Computed | Freed]] = []
        self._count = 0
        self._now_s = 0.0  # of the latest that happened
        self._free_s = 0.0
        self._left = False
        self._unclear_s = float("-inf")  # until when first tokens are of a step that is not clear

    def happened(self, what: Computed | Freed, at_s: float) -> None:
        """Note what happened when, and learn from what is old enough by now."""
        self._count += 1
        self._now_s = max(self._now_s, at_s)
        heappush(self._past, (at_s, self._count, what))
        while self._past and self._past[0][0] <= self._now_s - self.late_s:
            past_s, _, past = heappop(self._past)
            self._learn(past, past_s)

    def _learn(self, past: Computed | Freed, at_s: float) -> None:
        if isinstance(past, Freed):
            self._left = self._left or past.left
            if past.frees:
                self._free_s = max(self._free_s, at_s)
            return
        if self._left:
            self._left, self._unclear_s = False, at_s + STEP_S
        if at_s >= self._unclear_s:
            since_s = max(self._free_s, past.dispatched_s)
            elapsed_ms = max(0.0, at_s - since_s) * 1_000.0
            self.speed.first_token(
                past.miss_tokens, past.miss_pairs, past.beside_tokens, elapsed_ms, at_s
            )
        self._free_s = max(self._free_s, at_s)
