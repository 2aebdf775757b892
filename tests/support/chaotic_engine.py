"""A simulated engine whose KV events come delayed, lost, doubled and reordered, and may be cut off.

The engine is the simulator's own core and the stream is the product's; only the link between them
is made up here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from random import Random

from headrace.core.ids import EndpointId
from headrace.simulator.engine import SimEngine, StepResult
from headrace.simulator.fleet import EngineActor
from headrace.simulator.presets import HARDWARE, MODELS
from headrace.simulator.requests import (
    BlockEvent,
    BlockKey,
    BlocksCleared,
    BlocksRemoved,
    BlocksStored,
)
from headrace.simulator.spec import EngineSpec
from headrace.simulator.world import World
from kvcache.changes import Change, IndexSink, deliver
from kvcache.events import (
    AllBlocksCleared,
    BlockRemoved,
    BlockStored,
    EventBatch,
    KvEvent,
    encode_batch,
)
from kvcache.stream import EventStream, Replay, StreamLimits

SPEC = EngineSpec(
    HARDWARE["L4"],
    MODELS["Llama-3.1-8B"],
    num_blocks=48,
    max_num_seqs=4,
    max_num_batched_tokens=256,
    record_events=True,
)

SIZE = SPEC.block_size


class Life:
    """One life of an engine, what it published, and the blocks it holds."""

    def __init__(self, world: World, buffer_batches: int) -> None:
        self.held: set[int] = set()
        self.sent: list[bytes] = []
        self._buffer = buffer_batches
        self._world = world

    def publish(self, events: Sequence[BlockEvent]) -> tuple[int, bytes] | None:
        """Take the core's events; return the batch they make."""
        wire = list(self._wire(events))
        if not wire:
            return None
        payload = encode_batch(EventBatch(1e9 + self._world.now_s, wire, 0))
        self.sent.append(payload)
        return len(self.sent) - 1, payload

    def replay(self, start: int) -> list[tuple[int, bytes]]:
        first = max(start, len(self.sent) - self._buffer, 0)
        return list(enumerate(self.sent))[first:]

    def _wire(self, events: Sequence[BlockEvent]) -> Iterator[KvEvent]:
        for event in events:
            if isinstance(event, BlocksCleared):
                self.held.clear()
                yield AllBlocksCleared()
            elif isinstance(event, BlocksRemoved):
                self.held.difference_update(map(_number, event.keys))
                yield from (BlockRemoved([key], "GPU", group_idx=0) for key in event.keys)
            else:
                assert isinstance(event, BlocksStored)
                self.held.update(map(_number, event.keys))
                yield BlockStored(
                    list(event.keys),
                    event.parent,
                    [0] * (SIZE * len(event.keys)),
                    SIZE,
                    None,
                    "GPU",
                    None,
                    group_idx=0,
                    kv_cache_spec_kind="full_attention",
                )


def _number(key: BlockKey) -> int:
    assert isinstance(key, int)
    return key


class Engine:
    """An engine, its link and the stream at the other end of it."""

    def __init__(
        self,
        world: World,
        name: str,
        index: IndexSink,
        on_step: Callable[[EndpointId, StepResult], None] | None = None,
    ) -> None:
        self._world = world
        self._on_step = on_step
        self._chance = world.rng(name)
        self._index = index
        self.endpoint = EndpointId(name)
        buffers = self._chance.choice((2, 20, 10_000))
        self._buffer = buffers
        self.stream = EventStream(
            replays=self._chance.random() < 0.9,
            limits=StreamLimits(
                held_batches=self._chance.choice((3, 1_000)),
                recent_batches=self._chance.choice((2, 64)),
            ),
        )
        self._loss_ratio = self._chance.choice((0.0, 0.02, 0.2))
        self._faulty = True
        self.begin()

    def begin(self) -> None:
        """Start a life with nothing in its cache."""
        self.life = Life(self._world, self._buffer)
        self.actor = EngineActor(self._world, SimEngine(SPEC), partial(self._stepped, self.life))
        self._world.at(self._some_ns(0.05), self._connected)

    def calm(self) -> None:
        """From now on nothing is lost, late or doubled."""
        self._faulty = False

    def check_up(self) -> None:
        self._deliver(self.stream.check_up())

    def clear(self) -> None:
        if self.actor.engine.clear_prefix_cache():
            self._stepped(self.life, None)

    def _connected(self) -> None:
        self._deliver(self.stream.connected())

    def _stepped(self, life: Life, result: StepResult | None) -> None:
        actor = self.actor if life is self.life else None
        if actor is None:
            return  # the old life is dead: its last step is never published
        self._publish(life.publish(actor.engine.drain_events()))
        if result is not None and self._on_step is not None:
            self._on_step(self.endpoint, result)

    def _publish(self, batch: tuple[int, bytes] | None) -> None:
        if batch is None or self._lost():
            return
        for _ in range(1 + (self._faulty and self._chance.random() < 0.05)):
            late = self._faulty and self._chance.random() < 0.1
            arrive = partial(self._arrived, *batch)
            self._world.at(self._some_ns(0.3 if late else 0.003), arrive)

    def _arrived(self, seq: int, payload: bytes) -> None:
        self._deliver(self.stream.live(seq, payload, self._world.now_s))

    def _asked(self, wanted: Replay) -> None:
        if self._faulty and self._chance.random() < 0.1:  # nobody answers
            self._world.at(self._some_ns(0.5), partial(self._replay_failed, wanted.number))
            return
        delay_ns = 0
        for seq, payload in self.life.replay(wanted.start_seq):
            if self._lost():
                continue
            delay_ns += self._some_ns(0.001)
            self._world.at(delay_ns, partial(self._replayed, wanted.number, seq, payload))
        self._world.at(delay_ns + 1_000_000, partial(self._replay_ended, wanted.number))

    def _replayed(self, number: int, seq: int, payload: bytes) -> None:
        self._deliver(self.stream.replayed(number, seq, payload, self._world.now_s))

    def _replay_ended(self, number: int) -> None:
        self._deliver(self.stream.replay_ended(number))

    def _replay_failed(self, number: int) -> None:
        self._deliver(self.stream.replay_failed(number))

    def _deliver(self, changes: Sequence[Change]) -> None:
        deliver(self.endpoint, changes, self._index)
        wanted = self.stream.take_request()
        if wanted is not None:
            self._world.at(self._some_ns(0.01), partial(self._asked, wanted))

    def _lost(self) -> bool:
        return self._faulty and self._chance.random() < self._loss_ratio

    def _some_ns(self, most_s: float) -> int:
        return round(self._chance.uniform(0.0, most_s) * 1e9)


def chain(rng: Random) -> list[int]:
    """Return the block names of a prompt from a small tree of prompts, so that many are shared."""
    path, names = 1, []
    for _ in range(rng.randint(1, 12)):
        path = path * 3 + rng.choice((0, 0, 0, 1, 2))
        names.append(path * 0x9E3779B97F4A7C15 % 2**64)
    return names
