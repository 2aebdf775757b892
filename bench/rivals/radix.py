"""A prefix tree whose nodes remember who was sent what is below them, for Preble. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from bench.rivals.prefixes import shared


@dataclass(slots=True, eq=False)
class Node:
    """A run of blocks; ``blocks[start:end]`` of a prompt that went through it.

    Attributes:
        blocks: Such a prompt's.
        start: Where the run begins.
        end: Where it ends: the length of the whole prefix.
        parent: None for the root and for a node that was evicted.
        children: By their first block.
        holders: Bits of the endpoints that were sent a prompt through it.
        used_s: When one last came through.
        count: Prompts of the window that end here, 0 if it is not in the window.
        hit_blocks: Of those, what was matched before the node.
        asked_blocks: Of those, all blocks.

    """

    blocks: Sequence[int] = ()
    start: int = 0
    end: int = 0
    parent: Node | None = None
    children: dict[int, Node] = field(default_factory=dict)
    holders: int = 0
    used_s: float = 0.0
    count: int = 0
    hit_blocks: int = 0
    asked_blocks: int = 0

    @property
    def length(self) -> int:
        """Blocks of the run itself."""
        return self.end - self.start

    def upwards(self) -> Iterator[Node]:
        """Yield the node, its parent and so on to the root."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.parent


class RadixTree:
    """The tree; nodes not used for ``ttl_s`` are forgotten.

    Args:
        ttl_s: Age at which they are.
        before: Called before a node that is in use changes its length or holders.
        after: Called after that.

    """

    def __init__(
        self, ttl_s: float, before: Callable[[Node], None], after: Callable[[Node], None]
    ) -> None:
        self.root = Node()
        self._ttl_s = ttl_s
        self._before = before
        self._after = after
        self._by_use: OrderedDict[Node, None] = OrderedDict()

    def add(self, blocks: Sequence[int], now_s: float) -> tuple[Node, int]:
        """Insert a prompt; return the node where it ends, and how much of it was known before."""
        node, depth = self.root, 0
        while depth < len(blocks):
            self._touch(node, now_s)
            child = node.children.get(blocks[depth])
            if child is None:
                leaf = Node(blocks, depth, len(blocks), node)
                node.children[blocks[depth]] = leaf
                self._touch(leaf, now_s)
                return leaf, depth
            matched = min(shared(child.blocks, blocks, depth), child.end)
            node = child if matched == child.end else self._split(child, matched, now_s)
            depth = matched
        self._touch(node, now_s)
        return node, depth

    def hold(self, node: Node, index: int) -> None:
        """Note that the endpoint was sent the prompt that ends here."""
        bit = 1 << index
        for above in node.upwards():
            if not above.holders & bit:
                self._before(above)
                above.holders |= bit
                self._after(above)

    def evict(self, now_s: float) -> list[Node]:
        """Forget what is too old and return it.

        As there, whoever held an evicted node loses all nodes above it as well.
        """
        evicted = []
        while self._by_use:
            node = next(iter(self._by_use))
            if now_s - node.used_s <= self._ttl_s:
                break
            evicted += self._drop(node)
        return evicted

    def _drop(self, node: Node) -> list[Node]:
        dropped = [node]
        for one in dropped:  # grows below
            dropped += one.children.values()
        assert node.parent is not None
        holders = 0
        for one in dropped:
            self._before(one)
            del self._by_use[one]
            holders |= one.holders
        for above in node.parent.upwards():
            if above.holders & holders:
                self._before(above)
                above.holders &= ~holders
                self._after(above)
        del node.parent.children[node.blocks[node.start]]
        for one in dropped:
            one.parent, one.holders = None, 0
            self._after(one)
        return dropped

    def _split(self, child: Node, at: int, now_s: float) -> Node:
        upper = Node(child.blocks, child.start, at, child.parent, holders=child.holders)
        assert child.parent is not None
        child.parent.children[child.blocks[child.start]] = upper
        upper.children[child.blocks[at]] = child
        self._before(child)
        child.start, child.parent = at, upper
        self._after(child)
        self._touch(upper, now_s)
        return upper

    def _touch(self, node: Node, now_s: float) -> None:
        node.used_s = now_s
        if node is not self.root:
            self._by_use[node] = None
            self._by_use.move_to_end(node)
