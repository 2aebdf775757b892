from __future__ import annotations

from headrace.simulator.blocks import BlockPool


def pool(blocks: int = 4, *, caching: bool = True) -> BlockPool:
    return BlockPool(blocks, caching=caching, record_removed=True)


def test_blank_blocks_are_handed_out_before_cached_ones_are_evicted() -> None:
    blocks = pool(4)
    blocks.take(2)
    blocks.release(blocks.store([1, 2]), 0)
    blocks.take(2)
    assert blocks.take_removed() == ()
    blocks.take(1)
    assert blocks.take_removed() == (2,)


def test_the_end_of_a_prefix_is_evicted_before_its_beginning() -> None:
    blocks = pool(3)
    blocks.take(3)
    blocks.release(blocks.store([1, 2, 3]), 0)
    blocks.take(3)
    assert blocks.take_removed() == (3, 2, 1)


def test_a_touched_block_is_not_evicted_while_it_is_referenced() -> None:
    blocks = pool(2)
    blocks.take(2)
    blocks.release(blocks.store([1, 2]), 0)
    blocks.touch([1])
    blocks.take(1)
    assert blocks.take_removed() == (2,)
    assert blocks.free == 0
    blocks.release([1], 1)
    assert blocks.free == 2


def test_touching_moves_a_block_to_the_young_end_of_the_queue() -> None:
    blocks = pool(2)
    blocks.take(2)
    blocks.release(blocks.store([1]), 0)
    blocks.release(blocks.store([2]), 0)
    blocks.touch([1])
    blocks.release([1], 0)
    blocks.take(1)
    assert blocks.take_removed() == (2,)


def test_a_second_copy_of_a_block_stays_private() -> None:
    blocks = pool(3)
    blocks.take(2)
    assert blocks.store([7]) == [7]
    assert blocks.store([7]) == [None]
    blocks.release([None], 0)
    assert blocks.has(7)
    blocks.check({7: 1}, 0)


def test_leading_stops_at_the_first_block_that_is_missing() -> None:
    blocks = pool(4)
    blocks.take(2)
    blocks.store([1, 3])
    assert blocks.leading([1, 2, 3]) == 1


def test_nothing_is_cached_when_caching_is_off() -> None:
    blocks = pool(2, caching=False)
    blocks.take(1)
    assert blocks.store([1]) == [None]
    assert blocks.cached == 0


def test_clearing_is_refused_while_a_block_is_referenced() -> None:
    blocks = pool(3)
    blocks.take(2)
    blocks.store([1])
    blocks.release(blocks.store([2]), 0)
    assert not blocks.clear()
    blocks.release([1], 0)
    assert blocks.clear()
    assert blocks.free == 3
    assert not blocks.has(2)
