"""How a process that serves is stopped, and how it talks to whoever started it."""

from __future__ import annotations

import asyncio
import signal
import sys

import typer


def stop_on_signals(stop: asyncio.Event) -> None:
    """Take the first signal as a wish to stop, a second as a wish not to wait for streams.

    The second cancels the current task. Further ones change nothing: stopping engines has time
    limits of its own.
    """
    main = asyncio.current_task()
    assert main is not None
    wishes = iter((stop.set, main.cancel))

    def wish() -> None:
        next(wishes, lambda: None)()

    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, wish)


def say(text: str) -> None:
    """Print a line for whoever started us."""
    typer.echo(text)
    sys.stdout.flush()
