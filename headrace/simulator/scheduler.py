"""Which requests run in the next step: vLLM v1's scheduler without the GPU. Pure.

Source: vLLM 0.19 to 0.32, ``vllm/v1/core/sched/scheduler.py`` and ``kv_cache_manager.py``: one
token budget, running requests first and then waiting ones, no difference between prefill and
decode, preemption by recompute. Admission never preempts; only a running request that needs a
block does.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from headrace.core.endpoint import Role
from headrace.simulator.blocks import BlockPool
from headrace.simulator.requests import (
    BlockEvent,
    BlockKey,
    BlocksRemoved,
    BlocksStored,
    EngineCounters,
)
from headrace.simulator.sequence import Sequence
from headrace.simulator.spec import EngineSpec
from headrace.simulator.waiting import FcfsQueue, PriorityQueue


@dataclass(slots=True)
class Plan:
    """One step's batch, in batch order, and whether the next would be the same.

    Attributes:
        batch: Sequences with ``chunk`` > 0 tokens each.
        preempted: How many lost their blocks to make room.
        admitted: How many came from the waiting queue.
        adapter_loads: Adapters that had to be brought in.
        budget: Tokens left over.
        wake_s: When the first request that waits for a transfer has it; None when none does.

    """

    batch: list[Sequence] = field(default_factory=list)
    preempted: int = 0
    admitted: int = 0
    adapter_loads: int = 0
    budget: int = 0
    wake_s: float | None = None


class Scheduler:
    """Owns the running batch, the waiting queue, the KV blocks and the adapter slots."""

    def __init__(self, spec: EngineSpec, counters: EngineCounters) -> None:
        self.spec = spec
        self.counters = counters
        self.pool = BlockPool(
            spec.blocks, caching=spec.enable_prefix_caching, record_removed=spec.record_events
        )
        self.running: list[Sequence] = []
        self.waiting: FcfsQueue | PriorityQueue = (
            PriorityQueue() if spec.scheduling == "priority" else FcfsQueue()
        )
        self.leaving: list[Sequence] = []
        self._resident: OrderedDict[str, None] = OrderedDict()
        self._link_free_s = 0.0
        self._events: list[BlockEvent] = []

    def plan(self, now_s: float) -> Plan:
        """Choose the next step's batch, give it blocks, and count its chunks as computed.

        As in vLLM, blocks enter the prefix cache when the step that fills them is planned, so two
        requests admitted together share a prefix.
        """
        plan = Plan(budget=self.spec.max_num_batched_tokens)
        self._continue_running(plan)
        for sequence in plan.batch:
            self._advance(sequence)
        if not plan.preempted:
            self._admit_waiting(plan, now_s)
            while not plan.batch and plan.wake_s is None and self._break_wedge(plan, now_s):
                self._admit_waiting(plan, now_s)
        return plan

    def grow(self, sequence: Sequence, steps: int) -> None:
        """Account ``steps`` further decode steps of one sequence at once."""
        need = -(-(sequence.computed + steps) // self.spec.block_size) - sequence.held
        if need > 0:
            self.pool.take(need)
            sequence.held += need
        self._advance(sequence, steps)

    def _advance(self, sequence: Sequence, tokens: int | None = None) -> None:
        """Count ``tokens`` (its chunk) as computed; enter the blocks they fill in the cache."""
        sequence.computed += sequence.chunk if tokens is None else tokens
        full = sequence.computed // self.spec.block_size
        if full > len(sequence.keys):
            self.store_full(sequence, full)

    def store_full(self, sequence: Sequence, full: int) -> None:
        """Enter a sequence's newly filled blocks, up to ``full``, in the prefix cache."""
        first = len(sequence.keys)
        if not self.spec.enable_prefix_caching:
            sequence.keys.extend([None] * (full - first))
            return
        keys: list[BlockKey] = list(sequence.request.block_keys[first:full])
        while first + len(keys) < full:
            key = sequence.key_of(first + len(keys), self.spec.block_size)
            if key is None:
                break
            keys.append(key)
        kept = self.pool.store(keys)
        if self.spec.record_events:
            self._record_stored(sequence, first, kept)
        sequence.keys.extend(kept)
        sequence.keys.extend([None] * (full - len(sequence.keys)))

    def release(self, sequence: Sequence) -> None:
        """Give back every block a sequence holds."""
        self.pool.release(sequence.keys, sequence.held - len(sequence.keys))
        sequence.keys = []
        sequence.held = 0
        sequence.computed = 0
        sequence.ready_s = None

    def take_events(self) -> list[BlockEvent]:
        """Return block events since the last call, in order."""
        self._record_removed()
        events, self._events = self._events, []
        return events

    def note(self, event: BlockEvent) -> None:
        """Append an event that did not come from scheduling."""
        self._record_removed()
        self._events.append(event)

    # Running requests.

    def _continue_running(self, plan: Plan) -> None:
        block_size = self.spec.block_size
        running = self.running
        index = 0
        while index < len(running) and plan.budget > 0:
            sequence = running[index]
            chunk = min(sequence.total - sequence.computed, plan.budget)
            need = -(-(sequence.computed + chunk) // block_size) - sequence.held
            if need > 0:
                if not self._make_room(sequence, need, plan):
                    break
                if plan.preempted:  # a victim earlier in the batch moves this sequence up
                    index = running.index(sequence)
            sequence.chunk = chunk
            plan.budget -= chunk
            plan.batch.append(sequence)
            index += 1

    def _make_room(self, sequence: Sequence, need: int, plan: Plan) -> bool:
        """Take ``need`` blocks for a running sequence; False when it had to go itself."""
        while need > self.pool.free:
            if len(self.running) == 1 and self._drop_holder():
                continue
            victim = self._victim()
            self.running.remove(victim)
            if victim in plan.batch:
                plan.batch.remove(victim)
                plan.budget += victim.chunk
            self.preempt(victim)
            plan.preempted += 1
            if victim is sequence:
                return False
        self.pool.take(need)
        sequence.held += need
        return True

    def _victim(self) -> Sequence:
        if self.spec.scheduling == "priority":
            return max(self.running, key=lambda s: (s.request.priority, s.queued_s, s.number))
        return self.running[-1]

    def preempt(self, sequence: Sequence) -> None:
        """Drop a sequence's blocks and put it back in front of the waiting queue."""
        self.release(sequence)
        sequence.chunk = 0
        self.counters.preemptions += 1
        self.waiting.put_back([sequence])

    # Waiting requests.

    def _admit_waiting(self, plan: Plan, now_s: float) -> None:
        adapters = {s.request.adapter for s in plan.batch if s.request.adapter is not None}
        slots = self.spec.max_num_seqs - len(self.leaving)
        skipped: list[Sequence] = []
        while self.waiting and plan.budget > 0 and len(self.running) < slots:
            sequence = self.waiting.peek()
            if self._blocked(sequence, adapters, now_s, plan):
                skipped.append(self.waiting.pop())
                continue
            if not self._admit(sequence, plan, now_s):
                break
            self.waiting.pop()
            if sequence.ready_s is not None:
                skipped.append(sequence)
                self._note_wake(plan, sequence.ready_s)
                continue
            self.running.append(sequence)
            plan.batch.append(sequence)
            plan.budget -= sequence.chunk
            plan.admitted += 1
            self._advance(sequence)
            self._use_adapter(sequence, adapters, plan)
        if skipped:
            self.waiting.put_back(skipped)

    def _break_wedge(self, plan: Plan, now_s: float) -> bool:
        """Drop one fetched sequence's blocks when none can run; False when that is no help.

        Sequences whose KV has arrived hold blocks while they wait; together they may hold so many
        that none gets the rest of what it needs.
        """
        if self.running or self.leaving:
            return False
        for sequence in self.waiting:
            if sequence.ready_s is not None and sequence.ready_s > now_s:
                self._note_wake(plan, sequence.ready_s)
        return plan.wake_s is None and self._drop_holder()

    def _drop_holder(self) -> bool:
        """Take the blocks of the last waiting sequence that holds any; False when none does."""
        holders = [sequence for sequence in self.waiting if sequence.held]
        if not holders:
            return False
        self.release(holders[-1])
        self.counters.preemptions += 1
        return True

    def _blocked(self, sequence: Sequence, adapters: set[str], now_s: float, plan: Plan) -> bool:
        """Whether a waiting sequence must be passed over for now."""
        if sequence.ready_s is not None:
            if sequence.ready_s > now_s:
                self._note_wake(plan, sequence.ready_s)
                return True
            self._arrived(sequence)
        adapter = sequence.request.adapter
        return (
            adapter is not None and adapter not in adapters and len(adapters) >= self.spec.max_loras
        )

    def _admit(self, sequence: Sequence, plan: Plan, now_s: float) -> bool:
        """Give a waiting sequence blocks for its next chunk; False when there are too few.

        A sequence that must fetch KV first gets blocks and a ``ready_s`` instead of a chunk.
        """
        hits = self._hits(sequence) if sequence.computed == 0 else []
        block_size = self.spec.block_size
        start = sequence.computed + len(hits) * block_size
        fetch = self._to_fetch(sequence, start)
        chunk = 0 if fetch else min(sequence.total - start, plan.budget)
        held = sequence.held + len(hits)
        reusable = self.pool.reusable(hits)
        whole = -(-sequence.total // block_size) - held + reusable
        need = -(-(start + fetch + chunk) // block_size) - held
        gate = whole if self.spec.reserve_full_prompt or fetch else need + reusable
        if max(gate, need + reusable) > self.pool.free:
            return False
        self.pool.touch(hits)
        if need > 0:
            self.pool.take(need)
        sequence.held = held + max(0, need)
        sequence.keys.extend(hits)
        sequence.computed = start
        sequence.chunk = chunk
        self._count_prefix(sequence, len(hits) * block_size)
        if fetch:
            self._start_fetch(sequence, fetch, now_s)
        return True

    def _hits(self, sequence: Sequence) -> list[BlockKey]:
        """Keys of the leading blocks already cached; the last token is always recomputed."""
        if not self.spec.enable_prefix_caching:
            return []
        block_size = self.spec.block_size
        limit = (sequence.total - 1) // block_size
        known = sequence.request.block_keys[:limit]
        hits: list[BlockKey] = list(known[: self.pool.leading(known)])
        if len(hits) < len(known):
            return hits
        while len(hits) < limit:
            key = sequence.key_of(len(hits), block_size)
            if key is None or not self.pool.has(key):
                break
            hits.append(key)
        return hits

    def _count_prefix(self, sequence: Sequence, hit_tokens: int) -> None:
        """Count a first admission's look-up; as in vLLM, a resumed request does not count."""
        if sequence.cached_tokens >= 0:
            return
        sequence.cached_tokens = hit_tokens
        if self.spec.enable_prefix_caching:
            self.counters.prefix_query_tokens += sequence.request.prompt_tokens
            self.counters.prefix_hit_tokens += hit_tokens

    # Adapters.

    def _use_adapter(self, sequence: Sequence, adapters: set[str], plan: Plan) -> None:
        adapter = sequence.request.adapter
        if adapter is None:
            return
        adapters.add(adapter)
        if adapter in self._resident:
            self._resident.move_to_end(adapter)
            return
        in_use = {s.request.adapter for s in self.running}
        if len(self._resident) >= self.spec.max_loras:
            idle = next(name for name in self._resident if name not in in_use)
            del self._resident[idle]
        self._resident[adapter] = None
        plan.adapter_loads += 1
        self.counters.adapter_loads += 1

    # KV from another engine.

    def _to_fetch(self, sequence: Sequence, start: int) -> int:
        """Prompt tokens to fetch beyond those cached here; 0 when none or already done."""
        if sequence.fetched or self.spec.role is Role.PREFILL:
            return 0
        remote = min(sequence.request.kv_transfer_tokens, sequence.request.prompt_tokens - 1)
        return max(0, remote - start)

    def _start_fetch(self, sequence: Sequence, tokens: int, now_s: float) -> None:
        spec = self.spec
        start_s = max(now_s, self._link_free_s)
        wire_s = tokens * spec.model.kv_bytes_per_token / spec.kv_transfer_bytes_per_s
        self._link_free_s = start_s + wire_s
        sequence.ready_s = start_s + wire_s + spec.kv_transfer_latency_s
        sequence.fetched = True
        self.counters.transferred_tokens += tokens

    def _arrived(self, sequence: Sequence) -> None:
        sequence.ready_s = None
        request = sequence.request
        sequence.computed = min(request.kv_transfer_tokens, request.prompt_tokens - 1)
        self.store_full(sequence, sequence.computed // self.spec.block_size)

    @staticmethod
    def _note_wake(plan: Plan, ready_s: float) -> None:
        plan.wake_s = ready_s if plan.wake_s is None else min(plan.wake_s, ready_s)

    # Events.

    def _record_removed(self) -> None:
        removed = self.pool.take_removed()
        if removed:
            self._events.append(BlocksRemoved(removed))

    def _record_stored(self, sequence: Sequence, first: int, kept: list[BlockKey | None]) -> None:
        """Record runs of newly keyed blocks; a duplicate in between ends a run."""
        self._record_removed()
        run: list[BlockKey] = []
        start = first
        for index, key in enumerate([*kept, None], start=first):
            if key is not None:
                start = index if not run else start
                run.append(key)
            elif run:
                parent = sequence.key_of(start - 1, self.spec.block_size) if start else None
                adapter = sequence.request.adapter
                event = BlocksStored(
                    sequence.request.request_id, tuple(run), start, parent, adapter
                )
                self._events.append(event)
                run = []
