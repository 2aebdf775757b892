"""An event loop whose time jumps to the next thing that is due instead of passing.

Everything asyncio does by the loop's clock (sleeps, time-outs) takes no time; a program that waits
for nothing that is due fails instead of hanging.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from typing_extensions import override

T = TypeVar("T")


class _Jumping(selectors.BaseSelector):
    """Says how long it would have waited instead of waiting."""

    def __init__(self) -> None:
        self._real = selectors.DefaultSelector()
        self.waited_s = 0.0

    @override
    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    @override
    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    @override
    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = self._real.select(0)
        if found:
            return found
        if timeout is None:
            raise RuntimeError("nothing is due, and nothing will ever be")
        self.waited_s += max(0.0, timeout)
        return []

    @override
    def close(self) -> None:
        self._real.close()

    @override
    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._real.get_map()


class VirtualLoop(asyncio.SelectorEventLoop):
    """Starts at 0 seconds."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    @override
    def time(self) -> float:
        return self._jumping.waited_s


class VirtualClock:
    """A clock of one process in the loop's time; it may start anywhere and run fast or slow."""

    def __init__(self, origin_s: float = 0.0, rate: float = 1.0) -> None:
        self._origin_s = origin_s
        self._rate = rate

    def now_s(self) -> float:
        return self._origin_s + self._rate * asyncio.get_running_loop().time()

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(max(0.0, delay_s) / self._rate)


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run ``main`` to its end in no time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
