"""What the exact prefix index costs, beside a plain dict: memory, events per second, look-ups.

``bench.decide`` prints these figures; run alone (``python -m bench.index``) they are shown.
Times are this thread's CPU time, so that other programs' turns do not count.
"""

from __future__ import annotations

import gc
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from random import Random
from statistics import median, quantiles

from headrace.core.endpoint import BlockScheme
from headrace.core.ids import EndpointId
from kvcache.changes import deliver
from kvcache.events import BlockRemoved, BlockStored, EventBatch, KvEvent, encode_batch
from kvcache.index import IndexLimits, PrefixIndex
from kvcache.stream import EventStream
from router.prefixes import Prefixes

PREFILL_BLOCKS = 512
"""Most blocks one event stores: a step of 8,192 tokens."""

PREAMBLES, PREAMBLE_BLOCKS = 50, 64
ANSWER_BLOCKS = 24


@dataclass(frozen=True, slots=True)
class Chain:
    """One conversation on one endpoint: its blocks, and where its events begin."""

    endpoint: int
    blocks: list[int]
    starts: list[int]

    def events(self) -> Iterator[tuple[list[int], int | None]]:
        """Yield (blocks, parent) of each event."""
        for start, end in pairwise([*self.starts, len(self.blocks)]):
            yield self.blocks[start:end], self.blocks[start - 1] if start else None


def chains(seed: int, block_endpoints: int, endpoints: int, most_blocks: int) -> Iterator[Chain]:
    """Yield conversations until ``block_endpoints`` blocks are held, over all endpoints.

    Each begins with one of 50 preambles of 64 blocks, goes on with a prompt of its own in steps of
    at most 512 blocks, and ends with an answer whose blocks fill one by one.
    """
    rng = Random(seed)
    preambles = [[rng.getrandbits(64) for _ in range(PREAMBLE_BLOCKS)] for _ in range(PREAMBLES)]
    seen: set[tuple[int, int]] = set()
    held = number = 0
    while held < block_endpoints:
        endpoint, number = number % endpoints, number + 1
        which = min(int(rng.expovariate(0.1)), PREAMBLES - 1)
        own = rng.randint(most_blocks // 8, most_blocks) - PREAMBLE_BLOCKS
        blocks = preambles[which] + [rng.getrandbits(64) for _ in range(own)]
        known = (endpoint, which) in seen
        seen.add((endpoint, which))
        first = PREAMBLE_BLOCKS if known else 0
        answer = len(blocks) - ANSWER_BLOCKS
        starts = [*range(first, answer, PREFILL_BLOCKS), *range(answer, len(blocks))]
        held += len(blocks) - first
        yield Chain(endpoint, blocks, starts)


class NaiveIndex:
    """One dict entry, one mask and one step per block: what the index is compared with."""

    def __init__(self) -> None:
        self.holders: dict[int, int] = {}

    def stored(self, bit: int, blocks: Sequence[int]) -> None:
        holders = self.holders
        for block in blocks:
            holders[block] = holders.get(block, 0) | bit

    def removed(self, bit: int, blocks: Sequence[int]) -> None:
        holders = self.holders
        for block in blocks:
            left = holders.get(block, 0) & ~bit
            if left:
                holders[block] = left
            else:
                holders.pop(block, None)

    def longest_prefix(self, blocks: Sequence[int]) -> list[tuple[int, int]]:
        ends: list[tuple[int, int]] = []
        alive, holders = -1, self.holders
        for depth, block in enumerate(blocks):
            still = holders.get(block, 0) & alive
            if still != alive:
                if depth:
                    ends.append((alive & ~still, depth))
                alive = still
                if not alive:
                    return ends
        return [*ends, (alive, len(blocks))]


@dataclass(frozen=True, slots=True)
class IndexSize:
    """How big the index is made."""

    block_endpoints: int = 5_000_000
    endpoints: int = 100
    prompt_blocks: int = 2_000
    seed: int = 1


def measure(size: IndexSize) -> dict[str, float]:
    """Return figures by name; takes about a minute and 2 GiB at the default size."""
    figures: dict[str, float] = {}
    names = [EndpointId(f"engine-{number:03d}") for number in range(size.endpoints)]
    index = PrefixIndex(IndexLimits(blocks=2 * size.block_endpoints))
    naive = NaiveIndex()
    source = partial(chains, size.seed, size.block_endpoints, size.endpoints, size.prompt_blocks)
    figures |= _filled("index", source, lambda c, b, p: index.stored(names[c], b, parent=p))
    figures["index.block_endpoints"] = sum(map(index.blocks, names))
    figures["index.distinct_blocks"] = len(index)
    figures |= _filled("naive", source, lambda c, b, _: naive.stored(1 << c, b))
    probes = [chain for chain in source() if len(chain.blocks) > 0.9 * size.prompt_blocks][::7][
        :300
    ]
    figures |= _looked_up(index, naive, probes)
    figures |= _evicted(index, naive, names, probes)
    return figures | _applied(size)


def _filled(
    name: str,
    source: Callable[[], Iterator[Chain]],
    store: Callable[[int, list[int], int | None], None],
) -> dict[str, float]:
    """Fill an index; return its memory and speed. Making the blocks is not counted."""
    gc.collect()
    before_bytes, spent_s, blocks, worst_s = _resident_bytes(), 0.0, 0, 0.0
    for chain in source():
        for event, parent in list(chain.events()):
            begun_s = time.thread_time()
            store(chain.endpoint, event, parent)
            took_s = time.thread_time() - begun_s
            spent_s += took_s
            worst_s = max(worst_s, took_s)
            blocks += len(event)
    return {
        f"{name}.bytes_per_block_endpoint": (_resident_bytes() - before_bytes) / blocks,
        f"{name}.stored_blocks_per_s": blocks / spent_s,
        f"{name}.longest_store_ms": 1e3 * worst_s,
    }


def _looked_up(index: PrefixIndex, naive: NaiveIndex, probes: list[Chain]) -> dict[str, float]:
    figures: dict[str, float] = {}
    looks: dict[str, Callable[[list[int]], object]] = {
        "index": lambda blocks: index.longest_prefix(blocks, 0.0),
        "naive": naive.longest_prefix,
    }
    for name, look in looks.items():
        times_us: list[float] = []
        for chain in probes:
            blocks = [int(str(block)) for block in chain.blocks]  # a prompt's own numbers
            begun_s = time.thread_time()
            look(blocks)
            times_us.append(1e6 * (time.thread_time() - begun_s))
        figures[f"{name}.look_up_p50_us"] = median(times_us)
        figures[f"{name}.look_up_p99_us"] = quantiles(times_us, n=100)[98]
        figures[f"{name}.look_ups_per_s"] = 1e6 * len(times_us) / sum(times_us)
    return figures


def _evicted(
    index: PrefixIndex, naive: NaiveIndex, names: list[EndpointId], probes: list[Chain]
) -> dict[str, float]:
    """Evict prompts as engines do, their end first, a block at a time."""
    spent_s = {"index": 0.0, "naive": 0.0}
    blocks = 0
    for chain in probes:
        gone = [[block] for block in reversed(chain.blocks[PREAMBLE_BLOCKS:])]
        blocks += len(gone)
        begun_s = time.thread_time()
        for one in gone:
            index.removed(names[chain.endpoint], one)
        spent_s["index"] += time.thread_time() - begun_s
        begun_s = time.thread_time()
        for one in gone:
            naive.removed(1 << chain.endpoint, one)
        spent_s["naive"] += time.thread_time() - begun_s
    return {f"{name}.removed_blocks_per_s": blocks / took_s for name, took_s in spent_s.items()}


def _applied(size: IndexSize) -> dict[str, float]:
    """Take batches as they come off a socket, to the index: decoding and order included.

    As from an engine whose cache is full: each step evicts, one event per block, what it stores.
    """
    prefixes, stream = Prefixes(), EventStream(replays=False)
    endpoint = EndpointId("engine")
    prefixes.scheme(endpoint, BlockScheme(16))
    payloads: list[bytes] = []
    full: deque[int] = deque()
    blocks = 0
    for chain in chains(size.seed, 200_000, 1, size.prompt_blocks):
        for names, parent in chain.events():
            tokens = [int(name % 100_000) for name in names for _ in range(16)]
            stored = BlockStored(list(names), parent, tokens, 16, None, "GPU", None)
            gone = [full.popleft() for _ in range(min(len(names), len(full) - 50_000))]
            events: list[KvEvent] = [BlockRemoved([name], "GPU") for name in gone]
            payloads.append(encode_batch(EventBatch(0.0, [*events, stored], 0)))
            blocks += len(names) + len(gone)
        full.extend(reversed(chain.blocks[PREAMBLE_BLOCKS:]))
    begun_s = time.thread_time()
    for seq, payload in enumerate(payloads):
        deliver(endpoint, stream.live(seq, payload, 0.0), prefixes)
    took_s = time.thread_time() - begun_s
    return {
        "events.applied_blocks_per_s": blocks / took_s,
        "events.applied_batches_per_s": len(payloads) / took_s,
    }


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    for figure, value in measure(IndexSize()).items():
        print(f"{figure:34} {value:16,.1f}")
