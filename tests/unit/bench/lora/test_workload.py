from __future__ import annotations

from collections import Counter
from itertools import pairwise

from bench.lora.workload import (
    BLOCK_TOKENS,
    SHARED_TOKENS,
    Demand,
    adapter_names,
    requests,
)

DEMAND = Demand(adapters=100, exponent=1.0, rate_rps=50.0, duration_s=60.0)


def test_the_same_seed_gives_the_same_requests_in_order_of_arrival() -> None:
    made = requests(DEMAND, 1)
    assert made == requests(DEMAND, 1)
    assert made != requests(DEMAND, 2)
    assert all(a.arrival_s < b.arrival_s for a, b in pairwise(made))
    assert made[-1].arrival_s < DEMAND.duration_s


def test_demand_follows_zipfs_law() -> None:
    made = requests(DEMAND, 1)
    asked = Counter(one.adapter for one in made)
    first, tenth = (asked[adapter_names(100)[rank]] for rank in (0, 9))
    assert abs(first / len(made) - 1 / 5.187) < 0.03
    assert 5.0 < first / tenth < 20.0


def test_prompts_of_one_adapter_share_its_instructions_and_nothing_else() -> None:
    made = requests(DEMAND, 1)
    shared = SHARED_TOKENS // BLOCK_TOKENS
    heads = {one.hash_ids[:shared] for one in made}
    assert len(heads) == len({one.adapter for one in made})
    own = [block for one in made for block in one.hash_ids[shared:]]
    assert len(own) == len(set(own))
    assert {one.hash_ids[0] for one in made}.isdisjoint(own)
