"""One index per block scheme, for engines that do not all name their blocks alike. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from headrace.core.endpoint import BlockScheme
from headrace.core.ids import EndpointId
from kvcache.changes import Tier
from kvcache.index import Held, IndexLimits, PrefixIndex

_SchemeSaved = tuple[int, str, str | None]


class _Saved(msgspec.Struct, frozen=True, array_like=True):
    """A snapshot: each endpoint's scheme, and each scheme's index."""

    version: int
    schemes: dict[str, _SchemeSaved]
    indexes: list[tuple[_SchemeSaved | None, bytes]]


_VERSION: Final = 1

Blocks = Mapping[BlockScheme, Sequence[int]]
"""A prompt's block hashes under each scheme, first block first (``RouteRequest.engine_blocks``)."""


class FleetIndex:
    """What all endpoints hold, as their events tell; an ``IndexSink``.

    Until an engine's scheme is known its blocks are kept, but claimed for no prompt.
    """

    def __init__(self, limits: IndexLimits | None = None) -> None:
        self._limits = limits or IndexLimits()
        self._schemes: dict[EndpointId, BlockScheme] = {}
        self._indexes: dict[BlockScheme | None, PrefixIndex] = {}

    def scheme(self, endpoint: EndpointId, scheme: BlockScheme | None) -> None:
        """Take an endpoint's blocks, past and future, to be named by ``scheme``."""
        before = self._schemes.pop(endpoint, None)
        if scheme is not None:
            self._schemes[endpoint] = scheme
        index = self._indexes.get(before)
        if index is None or before == scheme:
            return
        if before is None:
            for tier, hashes in index.held_by(endpoint):
                self._index(scheme).stored(endpoint, hashes, tier)
        self._forget(endpoint, before)

    def stored(
        self, endpoint: EndpointId, tier: Tier, hashes: Sequence[int], parent: int | None
    ) -> None:
        """Record an event, as ``PrefixIndex.stored``."""
        self._index(self._schemes.get(endpoint)).stored(endpoint, hashes, tier, parent)

    def removed(self, endpoint: EndpointId, tier: Tier, hashes: Sequence[int]) -> None:
        """Record an event, as ``PrefixIndex.removed``."""
        index = self._indexes.get(self._schemes.get(endpoint))
        if index is not None:
            index.removed(endpoint, hashes, tier)

    def cleared(self, endpoint: EndpointId) -> None:
        """Record that an endpoint dropped everything."""
        index = self._indexes.get(self._schemes.get(endpoint))
        if index is not None:
            index.cleared(endpoint)

    def forgotten(self, endpoint: EndpointId) -> None:
        """Forget what an endpoint holds; how it names its blocks stays known."""
        self._forget(endpoint, self._schemes.get(endpoint))

    def gone(self, endpoint: EndpointId) -> None:
        """Forget an endpoint altogether."""
        self._forget(endpoint, self._schemes.pop(endpoint, None))

    def expect(self, endpoint: EndpointId, blocks: Blocks, until_s: float) -> None:
        """Count on what a request just sent will store, as ``PrefixIndex.expect``.

        Nothing is expected of an endpoint whose scheme is not known, or not among ``blocks``.
        """
        scheme = self._schemes.get(endpoint)
        if scheme is not None and scheme in blocks:
            self._index(scheme).expect(endpoint, blocks[scheme], until_s)

    def longest_prefix(self, blocks: Blocks, now_s: float) -> dict[EndpointId, Held]:
        """Return how much of a prompt each endpoint holds, in blocks of its own scheme."""
        found: dict[EndpointId, Held] = {}
        for scheme, hashes in blocks.items():
            index = self._indexes.get(scheme)
            if index is not None:
                found |= index.longest_prefix(hashes, now_s)
        return found

    def scheme_of(self, endpoint: EndpointId) -> BlockScheme | None:
        """Return how an endpoint names its blocks, or None while that is not known."""
        return self._schemes.get(endpoint)

    def schemes(self) -> list[BlockScheme]:
        """Return the schemes under which prompts must be hashed: those of some endpoint."""
        return sorted(
            set(self._schemes.values()), key=lambda s: (s.block_tokens, s.algorithm, s.seed or "")
        )

    def blocks(self, endpoint: EndpointId, tier: Tier = Tier.GPU) -> int:
        """Return how many blocks of ``tier`` an endpoint has reported and not removed."""
        index = self._indexes.get(self._schemes.get(endpoint))
        return 0 if index is None else index.blocks(endpoint, tier)

    def held_by(self, endpoint: EndpointId) -> set[int]:
        """Return the GPU blocks that an endpoint has reported and not removed; a long look."""
        index = self._indexes.get(self._schemes.get(endpoint))
        pieces = [] if index is None else index.held_by(endpoint)
        return {name for tier, hashes in pieces if tier is Tier.GPU for name in hashes}

    def snapshot(self) -> bytes:
        """Return all that was reported, and how each endpoint names its blocks.

        It is only true together with each stream's position at the same moment, and for an engine
        that is still the same: an ``EventStream`` that resumes there finds out, or forgets.
        """
        saved = _Saved(
            _VERSION,
            {name: _saved(scheme) for name, scheme in self._schemes.items()},
            [
                (None if scheme is None else _saved(scheme), index.snapshot())
                for scheme, index in self._indexes.items()
            ],
        )
        return msgspec.msgpack.encode(saved)

    def restore(self, saved: bytes) -> None:
        """Add what ``snapshot`` returned to an index that is empty yet.

        Raises:
            ValueError: if it is not a snapshot of this version (``msgspec.MsgspecError`` is one).

        """
        state = msgspec.msgpack.decode(saved, type=_Saved)
        if state.version != _VERSION:
            raise ValueError(f"a snapshot of version {state.version}, not {_VERSION}")
        for name, scheme in state.schemes.items():
            self._schemes[EndpointId(name)] = BlockScheme(*scheme)
        for named, index in state.indexes:
            self._index(None if named is None else BlockScheme(*named)).restore(index)

    def __len__(self) -> int:
        """Return the number of blocks known."""
        return sum(map(len, self._indexes.values()))

    def check(self) -> None:
        """Assert that each endpoint is in the index of its scheme and in no other."""
        for scheme, index in self._indexes.items():
            index.check()
            assert index.endpoints(), "an empty index is kept"
            for endpoint in index.endpoints():
                assert self._schemes.get(endpoint) == scheme

    def _index(self, scheme: BlockScheme | None) -> PrefixIndex:
        index = self._indexes.get(scheme)
        if index is None:
            index = self._indexes[scheme] = PrefixIndex(self._limits)
        return index

    def _forget(self, endpoint: EndpointId, scheme: BlockScheme | None) -> None:
        index = self._indexes.get(scheme)
        if index is not None:
            index.forget(endpoint)
            if not index.endpoints():
                del self._indexes[scheme]


def _saved(scheme: BlockScheme) -> _SchemeSaved:
    return scheme.block_tokens, scheme.algorithm, scheme.seed
