"""Runs a coroutine by hand up to where it waits, without a task. Uses asyncio's future protocol.

A relay hands over thousands of pieces a second, and nearly every hand-over can be done at once: a
task per piece, or one woken per piece, would cost more than the work. What ``asyncio.Task`` does
for a coroutine that waits on a future is done here in four lines.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Stepped(Generic[T]):
    """One coroutine, run as far as it goes; ``on_done`` is called if it could not finish at once.

    Attributes:
        finished: Whether it has returned or raised.
        error: What it raised, or None.

    """

    __slots__ = ("_coroutine", "_on_done", "_waiting", "error", "finished", "result")

    def __init__(
        self, coroutine: Coroutine[Any, Any, T], on_done: Callable[[Stepped[T]], None]
    ) -> None:
        self._coroutine = coroutine
        self._on_done = on_done
        self._waiting: asyncio.Future[Any] | None = None
        self.finished = False
        self.result: T | None = None
        self.error: Exception | None = None
        self._step()

    def cancel(self) -> None:
        """Drop the coroutine where it waits; ``on_done`` is not called."""
        if self.finished:
            return
        self.finished = True
        if self._waiting is not None:
            self._waiting.remove_done_callback(self._wake)
        self._coroutine.close()

    def _step(self) -> None:
        try:
            future = self._coroutine.send(None)
        except StopIteration as stop:
            self.result = stop.value
            self.finished = True
        except Exception as error:  # noqa: BLE001 -- handed to the request boundary
            self.error = error
            self.finished = True
        else:
            self._wait(future)

    def _wait(self, future: asyncio.Future[Any] | None) -> None:
        self._waiting = future
        if future is None:  # a bare yield: asyncio.sleep(0)
            asyncio.get_running_loop().call_soon(self._wake, None)
            return
        future._asyncio_future_blocking = False  # the sign that whoever awaits has taken note
        future.add_done_callback(self._wake)

    def _wake(self, _future: asyncio.Future[Any] | None) -> None:
        if self.finished:
            return
        self._step()
        if self.finished:
            self._on_done(self)
