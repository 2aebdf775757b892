"""The prefix estimate against a model too simple to be wrong: a list per endpoint, oldest first."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from headrace.core.ids import BlockHash, EndpointId
from kvcache.estimate import PrefixEstimate

LIMIT = 5
endpoints = st.sampled_from([EndpointId(x) for x in "abc"])
hashes = st.lists(st.integers(0, 8).map(BlockHash), max_size=7, unique=True)


class EstimateMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.estimate = PrefixEstimate()
        self.model: dict[EndpointId, list[BlockHash]] = {}

    @rule(e=endpoints, hs=hashes)
    def store(self, e: EndpointId, hs: list[BlockHash]) -> None:
        self.estimate.stored(e, hs, limit_blocks=LIMIT)
        held = [h for h in self.model.get(e, []) if h not in hs] + hs[::-1]
        self.model[e] = held[-LIMIT:]

    @rule(e=endpoints)
    def remove(self, e: EndpointId) -> None:
        self.estimate.removed(e)
        self.model.pop(e, None)

    @rule(hs=hashes)
    def look_up(self, hs: list[BlockHash]) -> None:
        want = {}
        for e, held in self.model.items():
            n = 0
            while n < len(hs) and hs[n] in held:
                n += 1
            if n:
                want[e] = n
        assert self.estimate.longest_prefix(hs) == want

    @invariant()
    def maps_agree_and_stay_bounded(self) -> None:
        self.estimate.check()
        for e, held in self.model.items():
            assert self.estimate.blocks(e) == len(held) <= LIMIT


TestEstimate = EstimateMachine.TestCase
TestEstimate.settings = settings(max_examples=60, deadline=None)
