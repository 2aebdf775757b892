"""How much of a prompt each endpoint holds: told by its events, or else guessed. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from typing_extensions import override

from headrace.core.endpoint import BlockScheme
from headrace.core.ids import EndpointId
from headrace.core.record import Usage
from headrace.core.request import RouteRequest
from kvcache.changes import IndexSink, Tier
from kvcache.estimate import PrefixEstimate
from kvcache.index import IndexLimits, PrefixIndex

EXPECTED_S: Final = 30.0
"""How long a block that we sent for is counted on before its event comes: longer than a prompt
waits and computes as a rule; what never came, because the request failed, is forgotten by then."""


@dataclass(frozen=True, slots=True)
class Cached:
    """Leading prompt tokens that an endpoint holds: on its GPU, and in any tier."""

    gpu_tokens: float
    tokens: float


NOTHING: Final = Cached(0.0, 0.0)


class Prefixes(IndexSink):
    """One exact index per block scheme, and one estimate for endpoints without events.

    A request that nobody tokenised is looked up in the estimate for every endpoint, so the
    estimate is kept for all.
    """

    def __init__(self, limits: IndexLimits | None = None) -> None:
        self._limits = limits
        self._schemes: dict[EndpointId, BlockScheme] = {}
        self._following: dict[BlockScheme, set[EndpointId]] = {}  # the same, the other way round
        self._indexes: dict[BlockScheme, PrefixIndex] = {}
        self._estimate = PrefixEstimate()

    def schemes(self) -> set[BlockScheme]:
        """Return the schemes of the endpoints whose events are followed."""
        return set(self._indexes)

    def exact(self, request: RouteRequest) -> AbstractSet[EndpointId]:
        """Return the endpoints of which events tell what they hold of the prompt."""
        schemes = request.engine_blocks.keys() & self._following.keys()
        if len(schemes) == 1:
            return self._following[schemes.pop()]
        return {endpoint for scheme in schemes for endpoint in self._following[scheme]}

    def blocks(self, endpoint: EndpointId) -> int:
        """Return how many blocks the endpoint is known, or else guessed, to hold on its GPU."""
        scheme = self._schemes.get(endpoint)
        if scheme is None:
            return self._estimate.blocks(endpoint)
        return self._indexes[scheme].blocks(endpoint)

    def cached(self, request: RouteRequest, now_s: float) -> dict[EndpointId, Cached]:
        """Return what each endpoint holds of the prompt; those that hold nothing are left out."""
        most = request.prompt_tokens - 1.0  # the last token is always computed
        found: dict[EndpointId, Cached] = {}
        for endpoint, depth in self._estimate.longest_prefix(request.blocks).items():
            tokens = depth * request.block_tokens
            tokens += self._estimate.reply_tokens(endpoint, request.blocks[depth - 1])
            tokens = max(0.0, min(most, tokens))
            found[endpoint] = Cached(tokens, tokens)
        for scheme, hashes in request.engine_blocks.items():
            index = self._indexes.get(scheme)
            if index is None:
                continue
            told = index.longest_prefix(hashes, now_s)
            whole = float(int(most) // scheme.block_tokens * scheme.block_tokens)
            for endpoint in [e for e in found if self._schemes.get(e) == scheme]:
                del found[endpoint]  # whatever was guessed of it, its events know
            for endpoint, held in told.items():
                found[endpoint] = Cached(
                    min(whole, float(held.gpu_blocks * scheme.block_tokens)),
                    min(whole, float(held.blocks * scheme.block_tokens)),
                )
        return found

    def sent(
        self, endpoint: EndpointId, request: RouteRequest, kv_tokens: int, now_s: float
    ) -> None:
        """Count on ``endpoint`` to hold the prompt soon."""
        limit = max(1, int(kv_tokens / request.block_tokens))
        self._estimate.stored(endpoint, request.blocks, limit_blocks=limit)
        scheme = self._schemes.get(endpoint)
        hashes: Sequence[int] = () if scheme is None else request.engine_blocks.get(scheme, ())
        if scheme is not None and hashes:
            self._indexes[scheme].expect(endpoint, hashes, now_s + EXPECTED_S)

    def unsent(self, endpoint: EndpointId, request: RouteRequest, cached_tokens: float) -> None:
        """Count no longer on what ``sent`` did: the request ended before its first token.

        ``cached_tokens`` is what the endpoint held of the prompt before. It may have computed some
        of the rest; if so its events say that.
        """
        self._estimate.unsent(endpoint, request.blocks[int(cached_tokens / request.block_tokens) :])
        scheme = self._schemes.get(endpoint)
        if scheme is not None and scheme in request.engine_blocks:
            hashes = request.engine_blocks[scheme]
            self._indexes[scheme].unexpect(
                endpoint, hashes[int(cached_tokens / scheme.block_tokens) :]
            )

    def answered(
        self, endpoint: EndpointId, request: RouteRequest, believed_tokens: float, usage: Usage
    ) -> None:
        """Learn from a reply: what it added to the prefix, and how right the guess had been."""
        if request.blocks:
            rest = request.prompt_tokens - len(request.blocks) * request.block_tokens
            self._estimate.answered(endpoint, request.blocks[-1], max(0.0, rest), usage)
        if self._schemes.get(endpoint) not in request.engine_blocks:
            self._estimate.corrected(endpoint, believed_tokens, usage.cached_tokens)

    def gone(self, endpoint: EndpointId) -> None:
        """Forget what was guessed of an endpoint that is down or no longer there.

        What its events told is forgotten by whoever follows them.
        """
        self._estimate.removed(endpoint)

    def snapshot(self) -> dict[BlockScheme, bytes]:
        """Return what the events told, per scheme; the estimate is not worth keeping."""
        return {scheme: index.snapshot() for scheme, index in self._indexes.items()}

    def check(self) -> None:
        """Assert that the parts agree."""
        self._estimate.check()
        assert self._following.keys() == self._indexes.keys()
        assert self._schemes == {e: scheme for scheme, es in self._following.items() for e in es}
        for index in self._indexes.values():
            index.check()

    # IndexSink: what the events say.

    @override
    def scheme(self, endpoint: EndpointId, scheme: BlockScheme | None) -> None:
        before = self._schemes.get(endpoint)
        if before == scheme:
            return
        if before is not None:
            self._indexes[before].forget(endpoint)
            del self._schemes[endpoint]
            self._following[before].remove(endpoint)
            if not self._following[before]:
                del self._indexes[before], self._following[before]
        if scheme is not None:
            self._schemes[endpoint] = scheme
            self._following.setdefault(scheme, set()).add(endpoint)
            self._indexes.setdefault(scheme, PrefixIndex(self._limits))
        else:
            self._estimate.removed(endpoint)  # what was sent to it was sent to the life before

    @override
    def stored(
        self, endpoint: EndpointId, tier: Tier, hashes: Sequence[int], parent: int | None
    ) -> None:
        scheme = self._schemes.get(endpoint)
        if scheme is not None:
            self._indexes[scheme].stored(endpoint, hashes, tier, parent)

    @override
    def removed(self, endpoint: EndpointId, tier: Tier, hashes: Sequence[int]) -> None:
        scheme = self._schemes.get(endpoint)
        if scheme is not None:
            self._indexes[scheme].removed(endpoint, hashes, tier)

    @override
    def cleared(self, endpoint: EndpointId) -> None:
        scheme = self._schemes.get(endpoint)
        if scheme is not None:
            self._indexes[scheme].cleared(endpoint)
        self._estimate.removed(endpoint)

    @override
    def forgotten(self, endpoint: EndpointId) -> None:
        scheme = self._schemes.get(endpoint)
        if scheme is not None:
            self._indexes[scheme].forget(endpoint)
        else:
            self._estimate.removed(endpoint)  # it may be a new life, and nothing else will tell
