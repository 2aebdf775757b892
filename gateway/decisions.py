"""The last decisions, kept so that any of them can be explained after the fact. Pure.

Each is packed into bytes as it is made, a few hundred per candidate, and unpacked when somebody
asks. Kept as objects they would take five times the memory, and every full garbage collection of
the gateway would walk them: 40 ms and more, to the cost of all requests then in flight.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from operator import attrgetter
from typing import Any, Final

import msgspec

import headrace
from headrace.core.endpoint import BlockScheme
from headrace.core.ids import RequestId
from headrace.core.outcome import Outcome
from headrace.core.record import Usage
from headrace.core.request import RouteRequest
from router.decide import Decision
from router.memory import NO_MEMORY
from router.policy import Candidate, Terms
from router.record import (
    Happened,
    PolicyUsed,
    RecordedDecision,
    count_engine_blocks,
    facts_of,
    record_request,
)

SAME_ID: Final = 16
"""Requests shown of those that came with the same id; clients may send one twice."""

OVERHEAD_BYTES: Final = 800
"""What a request takes beside its packed decisions: its entry, ids, usage and places in the books.
Held to what is measured by ``tests/unit/gateway/test_decisions.py``."""

_CANDIDATE: Final = tuple(f.name for f in fields(Candidate))
_TERMS: Final = tuple(f.name for f in fields(Terms))
_SCHEMES: Final = tuple[tuple[BlockScheme, int], ...]
_candidate_values: Final = attrgetter(*_CANDIDATE)
_terms_values: Final = attrgetter(*_TERMS)


@dataclass(slots=True)
class Placed:
    """One request: its packed decisions, in order, and how it ended once it has."""

    request_id: str
    own_id: RequestId
    packed: tuple[bytes, ...] = ()
    outcome: Outcome | None = None
    ttft_s: float | None = None
    usage: Usage | None = None

    @property
    def size_bytes(self) -> int:
        """Memory that it takes."""
        return OVERHEAD_BYTES + sum(map(len, self.packed))


class Decisions:
    """A ring of the newest requests' decisions, bounded by count and by bytes. One owner.

    Args:
        requests: Most requests kept; 0 keeps none.
        size_bytes: Most bytes that they may take.
        policy: The name of the policy that decides, in the catalogue.
        seed: Of the generator that breaks its ties.

    """

    def __init__(self, requests: int, size_bytes: int, *, policy: str, seed: int) -> None:
        self._most_requests = requests
        self._most_bytes = size_bytes
        self._policy = policy
        self._seed = seed
        self._pack = msgspec.msgpack.Encoder().encode_into
        self._buffer = bytearray()
        self._ring: deque[Placed] = deque()
        self._named: dict[str, list[Placed]] = {}
        self._inflight: dict[RequestId, Placed] = {}
        self.size_bytes = 0

    def __len__(self) -> int:
        """Return how many requests are kept."""
        return len(self._ring)

    def note(  # noqa: PLR0913 -- a decision and all that it was made from
        self,
        request_id: str,
        attempt: int,
        request: RouteRequest,
        decision: Decision,
        now_s: float,
        *,
        candidates: Sequence[Candidate],
        memory: Mapping[str, object] = NO_MEMORY,
    ) -> None:
        """Keep a decision.

        Args:
            request_id: As the client knows it; need not be unique.
            attempt: How many times it was sent before, as the router was told: its ties depend
                on it.
            request: What was placed, under the router's own unique id.
            decision: What was decided.
            now_s: When, in monotonic seconds.
            candidates: As the policy saw them, in that order.
            memory: What the policy remembered just before.

        """
        if not self._most_requests:
            return
        placed = self._inflight.get(request.request_id)
        if placed is None:
            placed = self._place(request_id, request.request_id)
        self._pack(
            (
                facts_of(request),
                len(request.blocks),
                count_engine_blocks(request) if request.engine_blocks else (),
                attempt,
                now_s,
                dict(memory),
                decision.unit,
                decision.endpoint_id,
                list(map(_candidate_values, candidates)),
                list(map(_terms_values, decision.ranking)),
            ),
            self._buffer,
        )
        packed = bytes(self._buffer)  # of its exact size; the encoder's own may have room to spare
        placed.packed += (packed,)
        self.size_bytes += len(packed)
        while self.size_bytes > self._most_bytes or len(self._ring) > self._most_requests:
            self._forget_oldest()

    def ended(
        self, own_id: RequestId, outcome: Outcome, ttft_s: float | None, usage: Usage | None
    ) -> None:
        """Enter how a request ended; harmless for one that was never placed or is forgotten.

        Args:
            own_id: The router's own id of the request.
            outcome: How it ended.
            ttft_s: Arrival to first token in seconds; None when none came.
            usage: Tokens as the engine reported them.

        """
        placed = self._inflight.pop(own_id, None)
        if placed is not None:
            placed.outcome = outcome
            placed.ttft_s = ttft_s
            placed.usage = usage

    def of(self, request_id: str) -> list[RecordedDecision]:
        """Return the decisions kept on requests of that id, oldest first; at most ``SAME_ID``."""
        found = self._named.get(request_id, [])[-SAME_ID:]
        return [record for placed in found for record in self._records(placed)]

    def newest(self, limit: int) -> list[RecordedDecision]:
        """Return the last decision on each of the newest ``limit`` requests, newest first."""
        return [self._records(placed)[-1] for placed in islice(reversed(self._ring), limit)]

    def check(self) -> None:
        """Assert that the bounds hold and that the books agree; called by tests."""
        assert len(self._ring) <= self._most_requests
        assert 0 <= self.size_bytes <= self._most_bytes
        assert self.size_bytes == sum(placed.size_bytes for placed in self._ring)
        kept = {id(placed) for placed in self._ring}
        assert {id(p) for named in self._named.values() for p in named} == kept
        assert sum(map(len, self._named.values())) == len(self._ring)
        assert {id(placed) for placed in self._inflight.values()} <= kept

    def _place(self, request_id: str, own_id: RequestId) -> Placed:
        placed = Placed(request_id, own_id)
        self.size_bytes += OVERHEAD_BYTES
        self._ring.append(placed)
        self._inflight[own_id] = placed
        named = self._named.get(request_id)
        if named is None:
            self._named[request_id] = [placed]
        else:
            named.append(placed)
        return placed

    def _forget_oldest(self) -> None:
        placed = self._ring.popleft()
        self.size_bytes -= placed.size_bytes
        if self._inflight.get(placed.own_id) is placed:
            del self._inflight[placed.own_id]
        named = self._named[placed.request_id]
        named.pop(0)  # the oldest of all is the oldest of its name
        if not named:
            del self._named[placed.request_id]

    def _records(self, placed: Placed) -> list[RecordedDecision]:
        last = len(placed.packed) - 1
        return [
            self._record(placed, packed, ended=i == last and placed.outcome is not None)
            for i, packed in enumerate(placed.packed)
        ]

    def _record(self, placed: Placed, packed: bytes, *, ended: bool) -> RecordedDecision:
        unpacked: list[Any] = msgspec.msgpack.decode(packed)
        facts, blocks, engine_blocks, attempt, now_s, memory, unit, endpoint, seen, terms = unpacked
        request = record_request(facts, blocks, msgspec.convert(engine_blocks, _SCHEMES))
        happened = None
        if ended and placed.outcome is not None:
            happened = Happened(placed.outcome, placed.ttft_s, placed.usage)
        return RecordedDecision(
            request_id=placed.request_id,
            attempt=attempt,
            model=request.facts["model"],
            now_s=now_s,
            version=headrace.__version__,
            request=request,
            candidates=msgspec.convert(_named(_CANDIDATE, seen), tuple[Candidate, ...]),
            policy=PolicyUsed(self._policy, memory),
            seed=self._seed,
            unit=unit,
            ranking=msgspec.convert(_named(_TERMS, terms), tuple[Terms, ...]),
            endpoint_id=endpoint,
            happened=happened,
        )


def _named(names: Sequence[str], rows: Sequence[Sequence[object]]) -> list[dict[str, object]]:
    return [dict(zip(names, row, strict=True)) for row in rows]
