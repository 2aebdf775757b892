"""How gateway replicas keep count of each other's requests in flight. Pure.

Each replica broadcasts what happens to its own reserves, numbered, and its heartbeat says the last
number. A receiver that misses one asks for a snapshot and keeps what it has until that comes; a
replica that is not heard of, or starts a new life, loses what it had. So any loss, delay,
duplication or reordering heals, and nothing of a dead replica stays.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from headrace.core.ids import RequestId
from router.replica_wire import (
    VERSION,
    Delta,
    Dispatched,
    FirstToken,
    Message,
    Released,
    dispatched,
    reserve_of,
)
from router.reserve import ReplicaId, Reserve, ReserveSink


@dataclass(frozen=True, slots=True)
class SharingLimits:
    """Bounds of what replicas tell each other.

    Attributes:
        lost_after_s: Silence after which a replica's reserves are dropped, and the longest that
            a known gap may stay open before they are.
        resync_s: Least time between two snapshots sent, and between two requests for one.
        replicas: Others that are listened to; more are ignored.
        requests: Requests in flight that are counted of one of them; more are ignored.
        blocks: Leading blocks told of one request, of each kind.
        deltas: Deltas in one message; more go into the next.
        pending_deltas: Deltas waiting to be sent; more are replaced by a snapshot.
        early_messages: Messages of one replica kept while one before them is missing.

    """

    lost_after_s: float = 2.0
    resync_s: float = 0.05
    replicas: int = 64
    requests: int = 65_536
    blocks: int = 4_096
    deltas: int = 256
    pending_deltas: int = 16_384
    early_messages: int = 256


class Heard(StrEnum):
    """What became of a message."""

    APPLIED = "applied"
    IDLE = "idle"  # a heartbeat, or a snapshot that nobody here needed
    SNAPSHOT = "snapshot"
    EARLY = "early"  # one before it is missing
    DUPLICATE = "duplicate"
    STALE = "stale"  # of an earlier life
    OWN = "own"
    CROWDED = "crowded"  # there are too many replicas


class Outbox:
    """What one replica has to tell the others. One owner; it is the only one to number messages.

    ``wants_index`` and ``index_at`` go into every message; see ``Message``.

    Args:
        replica: Its name.
        epoch: Of its life: larger than in any life before.
        limits: Bounds.

    """

    def __init__(self, replica: ReplicaId, epoch: int, limits: SharingLimits) -> None:
        self.replica = replica
        self.epoch = epoch
        self.wants_index = False
        self.index_at = 0
        self._limits = limits
        self._seq = 0
        self._inflight: dict[RequestId, Reserve] = {}
        self._pending: deque[Reserve | tuple[RequestId, float, bool]] = deque()
        self._snapshot_due = False
        self._snapshot_s = float("-inf")

    @property
    def inflight(self) -> int:
        """Requests of ours in flight."""
        return len(self._inflight)

    def due(self, now_s: float) -> bool:
        """Return whether there is something to tell that need not wait for the next heartbeat."""
        return bool(self._pending) or self._snapshot_allowed(now_s)

    def _snapshot_allowed(self, now_s: float) -> bool:
        return self._snapshot_due and now_s - self._snapshot_s >= self._limits.resync_s

    def dispatched(self, reserve: Reserve) -> None:
        """Note a request sent."""
        assert reserve.request_id not in self._inflight, reserve.request_id
        # blocks are told once: a snapshot has the load only
        self._inflight[reserve.request_id] = replace(reserve, blocks=(), engine_blocks={})
        self._add(reserve)

    def first_token(self, request_id: RequestId, now_s: float) -> None:
        """Note a first token; repeats and strangers are ignored."""
        reserve = self._inflight.get(request_id)
        if reserve is not None and not reserve.decoding:
            self._inflight[request_id] = replace(reserve, decoding=True)
            self._add((request_id, now_s, False))

    def released(self, request_id: RequestId, now_s: float) -> None:
        """Note an end; repeats and strangers are ignored."""
        if self._inflight.pop(request_id, None) is not None:
            self._add((request_id, now_s, True))

    def _add(self, event: Reserve | tuple[RequestId, float, bool]) -> None:
        self._pending.append(event)
        if len(self._pending) > self._limits.pending_deltas:
            self._pending.clear()
            self._snapshot_due = True
            self._seq += 1  # the number that receivers will miss

    def snapshot_wanted(self) -> None:
        """Have a snapshot sent with the next flush that is allowed one."""
        self._snapshot_due = True

    def flush(self, now_s: float, wants: Sequence[str] = ()) -> list[Message]:
        """Return what is to be sent now, which ends with a heartbeat if there is nothing else.

        Args:
            now_s: Monotonic seconds.
            wants: Replicas whose snapshot is needed here.

        """
        messages = []
        while self._pending:
            count = min(self._limits.deltas, len(self._pending))
            deltas = tuple(self._delta(self._pending.popleft(), now_s) for _ in range(count))
            self._seq += 1
            messages.append(self._message(deltas))
        if self._snapshot_allowed(now_s):
            self._snapshot_due = False
            self._snapshot_s = now_s
            whole = tuple(dispatched(one, now_s, 0) for one in self._inflight.values())
            messages.append(self._message(whole, snapshot=True))
        if wants or not messages:
            messages.append(self._message((), wants=tuple(wants)))
        return messages

    def _message(
        self, deltas: tuple[Delta, ...], *, snapshot: bool = False, wants: tuple[str, ...] = ()
    ) -> Message:
        return Message(
            VERSION,
            self.replica,
            self.epoch,
            self._seq,
            deltas,
            snapshot,
            wants,
            self.wants_index,
            self.index_at,
        )

    def _delta(self, event: Reserve | tuple[RequestId, float, bool], now_s: float) -> Delta:
        if isinstance(event, Reserve):
            return dispatched(event, now_s, self._limits.blocks)
        request_id, at_s, ended = event
        age_s = max(0.0, now_s - at_s)
        return Released(request_id, age_s) if ended else FirstToken(request_id, age_s)


@dataclass(slots=True)
class _Remote:
    """One request of another replica."""

    endpoint_id: str
    decoding: bool


@dataclass(slots=True)
class _Peer:
    """One other replica as far as we know it."""

    epoch: int
    heard_s: float
    seq: int = 0  # of the last message applied
    newest: int = 0  # the highest number seen
    inflight: dict[RequestId, _Remote] = field(default_factory=dict)
    early: dict[int, Message] = field(default_factory=dict)
    gap_since_s: float | None = None
    asked_s: float = float("-inf")


class Inbox:
    """What one replica knows of the others, handed on to ``sink`` in order. One owner.

    Attributes:
        delay_s: How long messages are under way. They say how old their news were when they were
            sent, as clocks differ; set it from measurements.

    Args:
        replica: Our own name: what bears it is not applied.
        sink: Who takes the others' reserves into account.
        limits: Bounds.

    """

    def __init__(self, replica: ReplicaId, sink: ReserveSink, limits: SharingLimits) -> None:
        self._own = replica
        self._sink = sink
        self._limits = limits
        self._peers: dict[ReplicaId, _Peer] = {}
        self.delay_s = 0.0

    def late_s(self, share_s: float) -> float:
        """Return how late news come, as a rule at most, where each is sent within ``share_s``."""
        return share_s + 2.0 * self.delay_s

    def heard(self, message: Message, now_s: float) -> Heard:
        """Take a message in; return what became of it."""
        sender = ReplicaId(message.sender)
        if sender == self._own:
            return Heard.OWN
        peer = self._peers.get(sender)
        if peer is None or message.epoch > peer.epoch:
            if peer is None and len(self._peers) >= self._limits.replicas:
                return Heard.CROWDED
            if peer is not None:
                self._sink.remote_lost(sender, now_s)
            peer = self._peers[sender] = _Peer(message.epoch, now_s)
        elif message.epoch < peer.epoch:
            return Heard.STALE
        peer.heard_s = now_s
        return self._take(sender, peer, message, now_s)

    def _take(self, sender: ReplicaId, peer: _Peer, message: Message, now_s: float) -> Heard:
        if message.snapshot:
            heard = self._snapshot(sender, peer, message, now_s)
        elif not message.deltas:
            heard = Heard.IDLE
        elif message.seq <= peer.seq:
            return Heard.DUPLICATE
        elif message.seq == peer.seq + 1:
            self._apply(sender, peer, message, now_s)
            heard = Heard.APPLIED
        else:
            heard = Heard.EARLY
            if len(peer.early) < self._limits.early_messages:
                peer.early[message.seq] = message
        peer.newest = max(peer.newest, message.seq)
        while (following := peer.early.pop(peer.seq + 1, None)) is not None:
            self._apply(sender, peer, following, now_s)
        if peer.seq >= peer.newest:
            peer.gap_since_s = None
            peer.early.clear()
        elif peer.gap_since_s is None:
            peer.gap_since_s = now_s
        return heard

    def tick(self, now_s: float) -> list[ReplicaId]:
        """Drop replicas that fell silent, or whose gap stays open; return which."""
        after_s = self._limits.lost_after_s
        lost = [
            sender
            for sender, peer in self._peers.items()
            if now_s - peer.heard_s > after_s
            or (peer.gap_since_s is not None and now_s - peer.gap_since_s > after_s)
        ]
        for sender in lost:
            del self._peers[sender]
            self._sink.remote_lost(sender, now_s)
        return lost

    def forget(self, now_s: float) -> None:
        """Drop all that is known of others: from now on nothing would correct it."""
        for sender in self._peers:
            self._sink.remote_lost(sender, now_s)
        self._peers.clear()

    def wants(self, now_s: float) -> list[str]:
        """Return the replicas to ask for a snapshot now, and take them as asked."""
        due = [
            (sender, peer)
            for sender, peer in self._peers.items()
            if peer.gap_since_s is not None and now_s - peer.asked_s >= self._limits.resync_s
        ]
        for _, peer in due:
            peer.asked_s = now_s
        return [sender for sender, _ in due]

    def lags_s(self, now_s: float) -> dict[ReplicaId, float]:
        """Return, per replica, how long ago its newest message came."""
        return {sender: now_s - peer.heard_s for sender, peer in self._peers.items()}

    def inflight(self) -> dict[ReplicaId, int]:
        """Return how many requests each replica has in flight, as far as we know."""
        return {sender: len(peer.inflight) for sender, peer in self._peers.items()}

    def synced(self) -> bool:
        """Return whether no replica that we know of has a gap."""
        return all(peer.gap_since_s is None for peer in self._peers.values())

    def _snapshot(self, sender: ReplicaId, peer: _Peer, message: Message, now_s: float) -> Heard:
        if message.seq <= peer.seq:
            return Heard.IDLE
        told = {
            RequestId(delta.request_id): delta
            for delta in message.deltas
            if isinstance(delta, Dispatched)
        }
        for request_id in [r for r, one in peer.inflight.items() if _over(one, told.get(r))]:
            del peer.inflight[request_id]
            self._sink.remote_released(sender, request_id, now_s)
        for request_id, delta in told.items():
            if request_id not in peer.inflight:
                self._dispatched(sender, peer, delta, now_s - self.delay_s)
            elif delta.decoding:
                self._first_token(sender, peer, request_id, now_s)
        peer.seq = message.seq
        peer.early = {seq: early for seq, early in peer.early.items() if seq > message.seq}
        return Heard.SNAPSHOT

    def _apply(self, sender: ReplicaId, peer: _Peer, message: Message, now_s: float) -> None:
        told_s = now_s - self.delay_s
        for delta in message.deltas:
            request_id = RequestId(delta.request_id)
            if isinstance(delta, Dispatched):
                self._dispatched(sender, peer, delta, told_s)
            elif isinstance(delta, FirstToken):
                self._first_token(sender, peer, request_id, told_s - delta.age_s)
            elif peer.inflight.pop(request_id, None) is not None:
                self._sink.remote_released(sender, request_id, told_s - delta.age_s)
        peer.seq = message.seq

    def _dispatched(self, sender: ReplicaId, peer: _Peer, delta: Dispatched, told_s: float) -> None:
        request_id = RequestId(delta.request_id)
        if request_id not in peer.inflight and len(peer.inflight) < self._limits.requests:
            peer.inflight[request_id] = _Remote(delta.endpoint_id, delta.decoding)
            self._sink.remote_dispatched(sender, reserve_of(delta, told_s))

    def _first_token(
        self, sender: ReplicaId, peer: _Peer, request_id: RequestId, at_s: float
    ) -> None:
        one = peer.inflight.get(request_id)
        if one is not None and not one.decoding:
            one.decoding = True
            self._sink.remote_first_token(sender, request_id, at_s)


def _over(one: _Remote, told: Dispatched | None) -> bool:
    """Return whether a request has ended; one of the same name elsewhere is its next attempt."""
    return (
        told is None or told.endpoint_id != one.endpoint_id or (one.decoding and not told.decoding)
    )
