"""Writes that the caches may not show yet, so that they are not made twice. Reads the clock."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Final

from headrace.core.clock import Clock

UNSEEN_S: Final = 30.0
"""How long a write that no watch has shown yet is trusted to have happened."""

UNSEEN: Final = 65_536
"""Most such writes remembered."""


class Recent:
    """Writes that the caches may not show yet, so that they are not made twice.

    Making them twice would do no harm, as names and uids are in them; it would cost calls.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._made: OrderedDict[Hashable, tuple[float, object]] = OrderedDict()

    def is_made(self, what: Hashable, value: object = None) -> bool:
        """Whether this very thing was written a moment ago."""
        at_s, written = self._made.get(what, (float("-inf"), None))
        return self._clock.now_s() - at_s < UNSEEN_S and written == value

    @contextmanager
    def making(self, what: Hashable, value: object = None) -> Iterator[None]:
        """Remember the write that is made in this block, unless it fails.

        It is remembered from the start: a watch may show it, and what it was may have gone again,
        before its answer has been read.
        """
        self.made(what, value)
        try:
            yield
        except BaseException:
            self.forget(what)
            raise

    def made(self, what: Hashable, value: object = None) -> None:
        """Remember a write."""
        self._made[what] = (self._clock.now_s(), value)
        self._made.move_to_end(what)
        while len(self._made) > UNSEEN:
            self._made.popitem(last=False)

    def forget(self, what: Hashable) -> None:
        """Take note that it has to be made again, should it be wanted."""
        self._made.pop(what, None)
