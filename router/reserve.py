"""A reserve as gateway replicas tell each other of it, and who tells and hears. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NewType, Protocol

from headrace.core.endpoint import BlockScheme
from headrace.core.ids import BlockHash, EndpointId, RequestId
from headrace.core.request import NO_ENGINE_BLOCKS

ReplicaId = NewType("ReplicaId", str)
"""Name of one gateway replica; two that live at the same time have different ones."""


@dataclass(frozen=True, slots=True)
class Reserve:
    """One request in flight and what it takes of its endpoint.

    Attributes:
        request_id: Unique among the requests that its replica has in flight.
        endpoint_id: Where it was sent.
        miss_tokens: Prompt tokens that the endpoint must compute.
        resident_tokens: KV tokens that it holds or will need.
        dispatched_s: When it was sent, in monotonic seconds of whoever reads this.
        silent: Whether its first token will not be seen, as the reply is not streamed.
        decoding: Whether it has had its first token.
        blocks: Leading routing blocks of its prompt, which the endpoint is about to hold; empty
            where that was told before, or is not worth telling.
        block_tokens: Tokens that one entry of ``blocks`` stands for.
        engine_blocks: Leading engine blocks likewise, per block scheme.
        loading: Whether it waits for its adapter to be loaded there.

    """

    request_id: RequestId
    endpoint_id: EndpointId
    miss_tokens: float
    resident_tokens: float
    dispatched_s: float
    silent: bool = False
    decoding: bool = False
    blocks: Sequence[BlockHash] = ()
    block_tokens: float = 16.0
    engine_blocks: Mapping[BlockScheme, Sequence[int]] = field(
        default_factory=lambda: NO_ENGINE_BLOCKS
    )
    loading: bool = False


class ReserveObserver(Protocol):
    """Hears of every reserve that a router makes, changes and releases; must not raise or wait."""

    def on_dispatched(self, reserve: Reserve) -> None:
        """Hear that a request was sent; ``dispatched_s`` is now."""
        ...

    def on_first_token(self, request_id: RequestId, now_s: float) -> None:
        """Hear of a first token; repeats and strangers are ignored."""
        ...

    def on_released(self, request_id: RequestId, now_s: float) -> None:
        """Hear that a request has ended; repeats and strangers are ignored."""
        ...


class ReserveSink(Protocol):
    """Takes the reserves of other replicas into account; a router has one.

    It is told consistently: a request of a replica is dispatched before anything else is said of
    it, has at most one first token, and is released at most once; losing a replica releases all.
    """

    def late(self, most_s: float) -> None:
        """Learn how late news of others come, as a rule at most; 0 when there are no others."""
        ...

    def remote_dispatched(self, replica: ReplicaId, reserve: Reserve) -> None:
        """Add a reserve of ``replica``, which may name an endpoint that is not known here."""
        ...

    def remote_first_token(self, replica: ReplicaId, request_id: RequestId, now_s: float) -> None:
        """Note the first token of a request of ``replica``."""
        ...

    def remote_released(self, replica: ReplicaId, request_id: RequestId, now_s: float) -> None:
        """Release a reserve of ``replica``."""
        ...

    def remote_lost(self, replica: ReplicaId, now_s: float) -> None:
        """Release every reserve of ``replica``; harmless when it has none."""
        ...
