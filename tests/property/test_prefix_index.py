"""The exact index against models too simple to be wrong: sets of blocks per holder and tier."""

from __future__ import annotations

from functools import cache

import xxhash
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from headrace.core.ids import EndpointId
from kvcache.changes import Tier
from kvcache.index import Held, IndexLimits, PrefixIndex
from kvcache.runs import Runs, bits

ENDPOINTS = [EndpointId(name) for name in "abcd"]
endpoints = st.sampled_from(ENDPOINTS)
tiers = st.sampled_from(list(Tier))

# A prompt is a path in a tree: labels; the hash of a block stands for the path up to it.
prompts = st.lists(st.sampled_from((0, 0, 0, 1)), max_size=24)
cuts = st.tuples(st.integers(0, 24), st.integers(0, 24))


@cache
def name(path: tuple[int, ...]) -> int:
    return xxhash.xxh3_64_intdigest(bytes(path))


def chain(prompt: list[int]) -> list[int]:
    return [name(tuple(prompt[: end + 1])) for end in range(len(prompt))]


class RunsMachine(RuleBasedStateMachine):
    """Any lists of blocks at all, in any order and with repeats: holders are always exact."""

    def __init__(self) -> None:
        super().__init__()
        self.runs = Runs()
        self.model: dict[int, set[int]] = {}

    holders = st.sampled_from((1, 2, 4))
    anything = st.lists(st.integers(0, 9), max_size=12)

    @rule(bit=holders, blocks=anything, parent=st.none() | st.integers(0, 9))
    def store(self, bit: int, blocks: list[int], parent: int | None) -> None:
        self.runs.stored(bit, blocks, parent)
        for block in blocks:
            self.model.setdefault(block, set()).add(bit)

    @rule(bit=holders, blocks=anything)
    def remove(self, bit: int, blocks: list[int]) -> None:
        here = {block for block in blocks if bit in self.model.get(block, ())}
        assert self.runs.removed(bit, blocks) == len(here)
        for block in here:
            self.model[block].discard(bit)

    @rule(bit=holders)
    def clear(self, bit: int) -> None:
        self.runs.cleared(bit)
        for held in self.model.values():
            held.discard(bit)

    @rule(count=st.integers(0, 4))
    def drop(self, count: int) -> None:
        before = len(self.runs)
        self.runs.drop_oldest(count)
        assert len(self.runs) == max(0, before - count)
        for block, held in self.model.items():
            assert self.runs.holders(block) in {0, sum(held)}
            if not self.runs.holders(block):
                held.clear()

    @invariant()
    def holders_are_exact(self) -> None:
        self.runs.check()
        for block, held in self.model.items():
            assert self.runs.holders(block) == sum(held)
        for bit in (1, 2, 4):
            assert self.runs.held(bit) == sum(bit in held for held in self.model.values())


class IndexMachine(RuleBasedStateMachine):
    """Chains of blocks, holes and all: a look-up equals a scan from the first block on."""

    def __init__(self) -> None:
        super().__init__()
        self.index = PrefixIndex()
        self.now_s = 0.0
        self.held: dict[tuple[EndpointId, Tier], set[int]] = {}
        self.expected: dict[tuple[EndpointId, int], float] = {}

    def tier(self, endpoint: EndpointId, tier: Tier) -> set[int]:
        return self.held.setdefault((endpoint, tier), set())

    def on_gpu(self, endpoint: EndpointId, block: int) -> bool:
        return (
            block in self.tier(endpoint, Tier.GPU)
            or self.expected.get((endpoint, block), -1.0) > self.now_s
        )

    @rule(e=endpoints, tier=tiers, prompt=prompts, cut=cuts, told=st.booleans())
    def store(
        self, e: EndpointId, tier: Tier, prompt: list[int], cut: tuple[int, int], told: bool
    ) -> None:
        first, last = sorted(cut)
        blocks = chain(prompt)
        parent = blocks[first - 1] if told and 0 < first <= len(blocks) else None
        self.index.stored(e, blocks[first:last], tier, parent)
        self.tier(e, tier).update(blocks[first:last])
        for block in blocks[first:last]:
            self.expected.pop((e, block), None)

    @rule(e=endpoints, tier=tiers, prompt=prompts, data=st.data())
    def remove(self, e: EndpointId, tier: Tier, prompt: list[int], data: st.DataObject) -> None:
        blocks = chain(prompt)
        gone = data.draw(st.lists(st.sampled_from(blocks), max_size=6)) if blocks else []
        self.index.removed(e, gone, tier)
        self.tier(e, tier).difference_update(gone)
        for block in gone:
            self.expected.pop((e, block), None)

    @rule(e=endpoints, prompt=prompts, count=st.integers(1, 24))
    def evict(self, e: EndpointId, prompt: list[int], count: int) -> None:
        gone = chain(prompt)[::-1][:count]  # as engines do: the end of a prefix first
        self.index.removed(e, gone)
        self.tier(e, Tier.GPU).difference_update(gone)
        for block in gone:
            self.expected.pop((e, block), None)

    @rule(e=endpoints, prompt=prompts, life_s=st.integers(1, 4))
    def expect(self, e: EndpointId, prompt: list[int], life_s: int) -> None:
        blocks = chain(prompt)
        self.look_up(prompt)  # what has expired is gone from both
        self.index.expect(e, blocks, self.now_s + life_s)
        while blocks and self.on_gpu(e, blocks[0]):
            del blocks[0]
        for block in blocks:
            known = self.expected.get((e, block), -1.0)
            # An earlier end stands for a block that two requests are expected to store.
            self.expected[e, block] = (
                min(known, self.now_s + life_s) if known > self.now_s else (self.now_s + life_s)
            )

    @rule(e=endpoints, prompt=prompts, first=st.integers(0, 24))
    def unexpect(self, e: EndpointId, prompt: list[int], first: int) -> None:
        self.index.unexpect(e, chain(prompt)[first:])
        for block in chain(prompt)[first:]:
            self.expected.pop((e, block), None)

    @rule(seconds=st.integers(1, 3))
    def wait(self, seconds: int) -> None:
        self.now_s += seconds

    @rule(e=endpoints, forget=st.booleans())
    def lose(self, e: EndpointId, forget: bool) -> None:
        (self.index.forget if forget else self.index.cleared)(e)
        for tier in Tier:
            self.tier(e, tier).clear()
        for key in [key for key in self.expected if key[0] == e]:
            del self.expected[key]

    @rule()
    def save_and_load(self) -> None:
        loaded = PrefixIndex()
        loaded.restore(self.index.snapshot())
        loaded.check()
        for (endpoint, tier), blocks in self.held.items():
            assert loaded.blocks(endpoint, tier) == len(blocks)

    @rule(prompt=prompts)
    def look_up(self, prompt: list[int]) -> None:
        blocks = chain(prompt)
        want: dict[EndpointId, Held] = {}
        sure: dict[EndpointId, int] = {}
        for endpoint in ENDPOINTS:
            on_gpu = anywhere = reported = 0
            while on_gpu < len(blocks) and self.on_gpu(endpoint, blocks[on_gpu]):
                on_gpu += 1
            while anywhere < len(blocks) and (
                self.on_gpu(endpoint, blocks[anywhere])
                or any(blocks[anywhere] in self.tier(endpoint, tier) for tier in Tier)
            ):
                anywhere += 1
            while reported < len(blocks) and blocks[reported] in self.tier(endpoint, Tier.GPU):
                reported += 1
            sure[endpoint] = reported
            if anywhere:
                want[endpoint] = Held(on_gpu, anywhere)
        found = self.index.longest_prefix(blocks, self.now_s)
        if not self.expected:
            assert found == want
        for endpoint, held in found.items():
            # Expectations may end early where requests overlap, never late.
            assert held.blocks <= want[endpoint].blocks
            assert sure[endpoint] <= held.gpu_blocks <= want[endpoint].gpu_blocks

    @invariant()
    def parts_agree(self) -> None:
        self.index.check()
        for (endpoint, tier), blocks in self.held.items():
            assert self.index.blocks(endpoint, tier) == len(blocks)


class BoundedMachine(RuleBasedStateMachine):
    """A limit too small: what is claimed was reported, and the bound holds."""

    LIMIT = 12

    def __init__(self) -> None:
        super().__init__()
        self.index = PrefixIndex(IndexLimits(blocks=self.LIMIT, expected_blocks=5))
        self.held: dict[EndpointId, set[int]] = {e: set() for e in ENDPOINTS}
        self.expected: dict[EndpointId, set[int]] = {e: set() for e in ENDPOINTS}

    @rule(e=endpoints, prompt=prompts, tier=tiers)
    def store(self, e: EndpointId, prompt: list[int], tier: Tier) -> None:
        self.index.stored(e, chain(prompt), tier)
        self.held[e].update(chain(prompt))

    @rule(e=endpoints, prompt=prompts)
    def evict(self, e: EndpointId, prompt: list[int]) -> None:
        for tier in Tier:
            self.index.removed(e, chain(prompt), tier)
        self.held[e].difference_update(chain(prompt))
        self.expected[e].difference_update(chain(prompt))

    @rule(e=endpoints, prompt=prompts)
    def expect(self, e: EndpointId, prompt: list[int]) -> None:
        self.index.expect(e, chain(prompt), 1.0)
        self.expected[e].update(chain(prompt))

    @rule(prompt=prompts)
    def look_up(self, prompt: list[int]) -> None:
        blocks = chain(prompt)
        for endpoint, held in self.index.longest_prefix(blocks, 0.0).items():
            assert 0 <= held.gpu_blocks <= held.blocks
            assert set(blocks[: held.blocks]) <= self.held[endpoint] | self.expected[endpoint]

    @invariant()
    def bounds_hold(self) -> None:
        self.index.check()
        assert len(self.index) <= self.LIMIT


def test_bits_are_the_powers_of_two_in_a_mask() -> None:
    assert list(bits(0b1011)) == [1, 2, 8]


TestRuns = RunsMachine.TestCase
TestIndex = IndexMachine.TestCase
TestBounded = BoundedMachine.TestCase
TestRuns.settings = TestIndex.settings = TestBounded.settings = settings(
    max_examples=60, deadline=None
)
