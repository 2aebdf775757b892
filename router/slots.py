"""How many requests an engine computes at once, found out from its reports. Pure."""

from __future__ import annotations

from typing import Final

TIMES: Final = 3
"""Reports in a row that must show it. A step too full for another prompt also keeps requests
waiting, but then fewer run whenever one ends."""


class Slots:
    """What one engine's reports tell of its ``max_num_seqs``; vLLM has no metric for it.

    It is the number that runs, the highest seen, while others wait and although requests end.
    """

    def __init__(self) -> None:
        self._most = 0
        self._times = 0
        self._ended = False

    @property
    def seen(self) -> int | None:
        """How many it is, or None while nothing has shown it."""
        return self._most if self._times >= TIMES else None

    def ended(self) -> None:
        """Note that a request ended there."""
        self._ended = True

    def reported(self, running: int, waiting: int) -> None:
        """Take a report, not older than the last."""
        if running > self._most:
            self._most, self._times = running, 0
        if self._times < TIMES:
            shown = running == self._most and waiting > 0 and self._ended
            self._times = self._times + 1 if shown else 0
        self._ended = False
