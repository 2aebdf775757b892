"""Which endpoint holds which prefix, as its own KV events tell. Pure.

One index for all engines that name their blocks alike (``BlockScheme``). Adapter and cache salt
are in the hashes, so what must not be shared never meets.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np

from headrace.core.ids import EndpointId
from kvcache.changes import Tier
from kvcache.runs import WORD, Runs, bits


@dataclass(frozen=True, slots=True)
class Held:
    """How many leading blocks an endpoint holds: all on its GPU, and each in some tier."""

    gpu_blocks: int
    blocks: int


@dataclass(frozen=True, slots=True)
class IndexLimits:
    """Bounds of an index.

    Attributes:
        blocks: Distinct blocks known, over all tiers; about 85 bytes each. Beyond it the least
            recently used are forgotten, which under-claims. The default is what 64 endpoints of
            80,000 blocks hold; far below the capacity of its engines an index is of little use.
        expected_blocks: Distinct blocks expected but not yet reported.

    """

    blocks: int = 5_000_000
    expected_blocks: int = 200_000


_SLACK: Final = 64
"""Beyond the limit, one part in this many is dropped at once, so that it is rarely done."""


class _Saved(msgspec.Struct, frozen=True, array_like=True):
    """A snapshot: endpoints, and per tier its runs as (places in ``endpoints``, hashes)."""

    version: int
    endpoints: list[str]
    tiers: dict[str, list[tuple[list[int], bytes]]]


_VERSION: Final = 1


class PrefixIndex:
    """Endpoints are bits of a mask; a tier is one ``Runs``, and so is what is only expected.

    One owner calls it. Look-ups count as use when the limit makes it forget.
    """

    def __init__(self, limits: IndexLimits | None = None) -> None:
        self._limits = limits or IndexLimits()
        self._bits: dict[EndpointId, int] = {}
        self._names: dict[int, EndpointId] = {}
        self._all = 0
        self._tiers: dict[Tier, Runs] = {tier: Runs() for tier in Tier}
        self._gpu = self._tiers[Tier.GPU]
        self._expected = Runs()
        self._expiries: list[tuple[float, int, EndpointId, Sequence[int]]] = []
        self._expiring = 0
        self._promises = 0

    def stored(
        self,
        endpoint: EndpointId,
        hashes: Sequence[int],
        tier: Tier = Tier.GPU,
        parent: int | None = None,
    ) -> None:
        """Record what an event said was stored.

        Args:
            endpoint: Whose event.
            hashes: Of blocks that follow each other in one chain, unsigned 64 bits.
            tier: Where they lie now; they may lie in others too.
            parent: The hash before the first, where known: keeps the index small.

        """
        bit = self._bit(endpoint)
        runs = self._tiers[tier]
        runs.stored(bit, hashes, parent)
        if self._expected.held(bit):
            self._expected.removed(bit, hashes)
        if self._size() > self._limits.blocks:
            self._shrink()

    def removed(self, endpoint: EndpointId, hashes: Sequence[int], tier: Tier = Tier.GPU) -> None:
        """Record what an event said was gone from ``tier``."""
        bit = self._bits.get(endpoint)
        if bit is not None:
            self._tiers[tier].removed(bit, hashes)
            if self._expected.held(bit):
                self._expected.removed(bit, hashes)

    def cleared(self, endpoint: EndpointId) -> None:
        """Record that an endpoint dropped everything, and expect nothing of it."""
        bit = self._bits.get(endpoint)
        if bit is not None:
            self._expected.cleared(bit)
            for runs in self._tiers.values():
                runs.cleared(bit)

    def forget(self, endpoint: EndpointId) -> None:
        """Forget an endpoint that is gone, or whose events were lost. Its bit becomes free."""
        self.cleared(endpoint)
        bit = self._bits.pop(endpoint, 0)
        if bit:
            del self._names[bit]
            self._all ^= bit

    def expect(self, endpoint: EndpointId, hashes: Sequence[int], until_s: float) -> None:
        """Count on blocks that a request just sent will store, until they are reported or time out.

        Args:
            endpoint: Where the request went.
            hashes: Of its whole prompt, first block first; those already held are left alone.
            until_s: When to stop counting on them; on the clock of ``longest_prefix``.

        """
        bit = self._bit(endpoint)
        held = self._reach(bit, hashes)
        missing = hashes[held : held + self._limits.expected_blocks]
        if not missing:
            return
        self._expected.stored(bit, missing, hashes[held - 1] if held else None)
        self._promises += 1
        heapq.heappush(self._expiries, (until_s, self._promises, endpoint, missing))
        self._expiring += len(missing)
        while self._expiring > self._limits.expected_blocks:
            self._expire_next()

    def unexpect(self, endpoint: EndpointId, hashes: Sequence[int]) -> None:
        """Count no longer on blocks of a request that ended before it was computed.

        Another that counted on the same may store them all the same; then its events will say so.
        """
        bit = self._bits.get(endpoint)
        if bit is not None and self._expected.held(bit):
            self._expected.removed(bit, hashes)

    def longest_prefix(self, hashes: Sequence[int], now_s: float) -> dict[EndpointId, Held]:
        """Return how much of a prompt each endpoint holds; those that hold none are left out.

        Args:
            hashes: Of the prompt's full blocks, first block first.
            now_s: Monotonic seconds.

        """
        while self._expiries and self._expiries[0][0] <= now_s:
            self._expire_next()
        gpu = [self._gpu, self._expected] if len(self._expected) else [self._gpu]
        lower = [self._tiers[tier] for tier in (Tier.CPU, Tier.DISK) if len(self._tiers[tier])]
        on_gpu = self._walk(gpu, hashes)
        found: dict[EndpointId, Held] = {}
        if not lower:
            for mask, depth in on_gpu:
                held = Held(depth, depth)
                for bit in bits(mask):
                    found[self._names[bit]] = held
            return found
        depth_on_gpu = {bit: depth for mask, depth in on_gpu for bit in bits(mask)}
        for mask, depth in self._walk([*gpu, *lower], hashes):
            for bit in bits(mask):
                found[self._names[bit]] = Held(depth_on_gpu.get(bit, 0), depth)
        return found

    def blocks(self, endpoint: EndpointId, tier: Tier = Tier.GPU) -> int:
        """Return how many blocks of ``tier`` an endpoint has reported and not removed."""
        bit = self._bits.get(endpoint)
        return 0 if bit is None else self._tiers[tier].held(bit)

    def held_by(self, endpoint: EndpointId) -> list[tuple[Tier, list[int]]]:
        """Return what an endpoint has reported, per tier in pieces of chains; a long look."""
        bit = self._bits.get(endpoint, 0)
        return [
            (tier, list(path))
            for tier, runs in self._tiers.items()
            for mask, path in runs.dump()
            if mask & bit
        ]

    def endpoints(self) -> list[EndpointId]:
        """Return the endpoints known, sorted."""
        return sorted(self._bits)

    def __len__(self) -> int:
        """Return the number of distinct blocks reported; one in two tiers counts twice."""
        return self._size()

    def snapshot(self) -> bytes:
        """Return all that was reported, in about 8 bytes per block; nothing that is expected."""
        places = {bit: place for place, bit in enumerate(self._names)}
        saved = _Saved(
            _VERSION,
            list(self._names.values()),
            {
                tier.value: [
                    ([places[bit] for bit in bits(mask)], _packed(path))
                    for mask, path in runs.dump()
                ]
                for tier, runs in self._tiers.items()
            },
        )
        return msgspec.msgpack.encode(saved)

    def restore(self, saved: bytes) -> None:
        """Add what ``snapshot`` returned. It is only true while no event has been missed since.

        Raises:
            ValueError: if it is not a snapshot of this version (``msgspec.MsgspecError`` is one).

        """
        state = msgspec.msgpack.decode(saved, type=_Saved)
        if state.version != _VERSION:
            raise ValueError(f"a snapshot of version {state.version}, not {_VERSION}")
        names = [EndpointId(name) for name in state.endpoints]
        for tier, runs in state.tiers.items():
            for places, packed in runs:
                if len(packed) % 8 or any(not 0 <= place < len(names) for place in places):
                    raise ValueError("a damaged snapshot")
                for place in places:
                    self.stored(names[place], _unpacked(packed), Tier(tier))

    def check(self) -> None:
        """Assert that the parts agree and that the bounds hold."""
        assert {bit: name for name, bit in self._bits.items()} == self._names
        assert self._all == sum(self._names)
        for runs in (*self._tiers.values(), self._expected):
            runs.check()
            for mask, _ in runs.dump():
                assert not mask & ~self._all, "a holder nobody knows"
        assert self._size() <= self._limits.blocks
        assert self._expiring == sum(len(missing) for _, _, _, missing in self._expiries)
        assert len(self._expected) <= self._expiring <= self._limits.expected_blocks

    def _bit(self, endpoint: EndpointId) -> int:
        bit = self._bits.get(endpoint)
        if bit is None:
            bit = ~self._all & (self._all + 1)  # the lowest that is free
            self._bits[endpoint] = bit
            self._names[bit] = endpoint
            self._all |= bit
        return bit

    def _walk(self, tiers: Sequence[Runs], hashes: Sequence[int]) -> list[tuple[int, int]]:
        """Return (mask of those whose prefix ends there, its length), shortest first, from 1 on."""
        ends: list[tuple[int, int]] = []
        used: list[int] = []
        alive, at, stop = self._all, 0, len(hashes)
        while at < stop and alive:
            held, step = 0, stop - at
            for runs in tiers:
                run, mask, length = runs.segment(hashes, at)
                mask &= alive
                if mask:
                    held |= mask
                    step = min(step, length)
                    if runs is self._gpu:
                        self._use(used, run, hashes, at)
                    if held == alive:
                        break
            if held != alive:
                if at:
                    ends.append((alive & ~held, at))
                alive = held
            at += step
        if alive and stop:
            ends.append((alive, stop))
        self._gpu.touch(used)
        return ends

    def _use(self, used: list[int], run: int, hashes: Sequence[int], at: int) -> None:
        """Add the run at ``hashes[at]`` to those used, or join it to the last of them."""
        if used and used[-1] == run:  # a shorter run of another tier parted the look along it
            return
        joined = self._gpu.joined(used[-1], run, hashes, at) if used else None
        if joined is None:
            used.append(run)
        else:
            used[-1] = joined

    def _reach(self, bit: int, hashes: Sequence[int]) -> int:
        """Return how many leading blocks one endpoint holds, or is expected to, on its GPU."""
        at, stop = 0, len(hashes)
        while at < stop:
            for runs in (self._gpu, self._expected):
                _, mask, length = runs.segment(hashes, at)
                if mask & bit:
                    at += length
                    break
            else:
                return at
        return stop

    def _expire_next(self) -> None:
        _, _, endpoint, missing = heapq.heappop(self._expiries)
        self._expiring -= len(missing)
        bit = self._bits.get(endpoint)
        if bit is not None and self._expected.held(bit):
            self._expected.removed(bit, missing)

    def _size(self) -> int:
        return sum(map(len, self._tiers.values()))

    def _shrink(self) -> None:
        goal = self._limits.blocks - self._limits.blocks // _SLACK
        while (excess := self._size() - goal) > 0:
            max(self._tiers.values(), key=len).drop_oldest(excess)


def _packed(path: Iterable[int]) -> bytes:
    return np.asarray(path, dtype="<u8").tobytes()


def _unpacked(packed: bytes) -> array[int]:
    path = array(WORD)
    path.frombytes(np.frombuffer(packed, dtype="<u8").astype(np.uint64).tobytes())
    return path
