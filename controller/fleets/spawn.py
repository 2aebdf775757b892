"""Our end of the process that is parent to the engines. Starts one process and talks to it.

The other end is ``headrace/runtime/engines/spawner.py``; see there for the protocol and for why the
engines are not our own children.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import headrace.runtime.engines
from headrace.core.errors import HeadraceError

SCRIPT: Final = Path(headrace.runtime.engines.__file__).with_name("spawner.py")
TAIL_BYTES: Final = 131_072
_ERROR: Final = re.compile(r"(^|\] )([a-z_]+\.)*[A-Z]\w*(Error|Exception): ")
CLOSE_S: Final = 5.0
LOST_CODE: Final = -int(signal.SIGKILL)


class SpawnFailed(HeadraceError):
    """A process could not be started; the message ends with what it last said."""


def log_tail(path: Path, lines: int = 8, since: int = 0) -> str:
    """Return the last lines of a log, indented, and before them the first that names an error.

    A library that fails ends with the traceback of whoever noticed, long after the cause.

    Args:
        path: The log; one that is not there gives an empty text.
        lines: How many of the last lines.
        since: Byte at which the process in question began to write.

    """
    try:
        with path.open("rb") as file:
            file.seek(max(since, path.stat().st_size - TAIL_BYTES))
            text = file.read(TAIL_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
    written = text.splitlines()
    cause = next((index for index, line in enumerate(written) if _ERROR.search(line)), None)
    last = written[-lines:]
    if cause is not None and cause < len(written) - lines:
        last = [written[cause], "...", *last]
    return "".join(f"\n    {line}" for line in last)


class Spawner:
    """Starts and signals engines; made by ``open``, ended by ``close``."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._stdin = process.stdin
        self._stdout = process.stdout
        self._log = log
        self._answered = asyncio.Event()
        self._started: dict[str, asyncio.Future[int]] = {}
        self._exits: dict[str, asyncio.Future[int]] = {}
        self._pids: dict[str, int] = {}
        self._reader = asyncio.create_task(self._read(), name="spawner")
        self.lost = False

    @classmethod
    async def open(
        cls, python: Path, env: Mapping[str, str], log: Path, *, prefork: bool, timeout_s: float
    ) -> Spawner:
        """Start it and wait until it takes orders.

        Args:
            python: The interpreter that runs it; the engine's own when ``prefork``.
            env: Set on top of our environment; the engines inherit it.
            log: Where it complains.
            prefork: Import the engine once and fork each from that image.
            timeout_s: For those imports.

        Raises:
            SpawnFailed: when it ends, or is not ready in time.

        """
        argv = [str(python), "-W", "ignore", str(SCRIPT), *(["--prefork"] if prefork else [])]
        with log.open("ab") as out:
            try:
                process = await asyncio.create_subprocess_exec(
                    *argv,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=out,
                    env={**os.environ, **env},
                    start_new_session=True,
                )
            except OSError as error:
                raise SpawnFailed(f"{python}: {error.strerror}") from None
        spawner = cls(process, log)
        try:
            async with asyncio.timeout(timeout_s):
                await spawner._answered.wait()
        except TimeoutError:
            await spawner.close()
            raise SpawnFailed(f"{argv[0]}: not ready in {timeout_s} s{log_tail(log)}") from None
        except BaseException:
            await spawner.close()
            raise
        if spawner.lost:
            await spawner.close()
            raise SpawnFailed(f"{argv[0]}: it ended while starting{log_tail(log)}")
        return spawner

    async def spawn(
        self, name: str, argv: Sequence[str], env: Mapping[str, str], *, log: Path, cwd: Path
    ) -> int:
        """Start one engine in a process group of its own; return its process id.

        Raises:
            SpawnFailed: when the machine cannot start a process.

        """
        assert name not in self._exits, f"{name} is running"
        loop = asyncio.get_running_loop()
        self._started[name] = loop.create_future()
        self._exits[name] = loop.create_future()
        self._order(op="spawn", id=name, argv=list(argv), env=dict(env), log=str(log), cwd=str(cwd))
        if self.lost:
            self._lose()
        try:
            return await self._started[name]
        finally:
            self._started.pop(name, None)

    async def exited(self, name: str) -> int:
        """Wait until that engine has ended; return its exit code, negative for a signal."""
        code = await asyncio.shield(self._exits[name])
        self._exits.pop(name, None)
        return code

    def signal(self, name: str, number: int, *, group: bool = False) -> None:
        """Signal an engine's first process, or all of its group; one that has ended is no error."""
        self._order(op="signal", id=name, signal=int(number), group=group)

    async def close(self) -> None:
        """Kill every engine still running, and end the spawner itself."""
        self._stdin.close()
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        await self._reader

    def _order(self, **order: object) -> None:
        if not self._stdin.is_closing():
            self._stdin.write(json.dumps(order).encode() + b"\n")

    async def _read(self) -> None:
        while line := await self._stdout.readline():
            event = json.loads(line)
            self._heard(event)
        self._lose()

    def _heard(self, event: dict[str, object]) -> None:
        kind, name = event["event"], str(event.get("id"))
        if kind == "ready":
            self._answered.set()
        elif kind == "started":
            self._pids[name] = int(str(event["pid"]))
            _settle(self._started.get(name), self._pids[name])
        elif kind == "exited":
            self._pids.pop(name, None)
            _settle(self._exits.get(name), int(str(event["code"])))
        elif kind == "failed":
            self._exits.pop(name, None)
            started = self._started.get(name)
            if started is not None and not started.done():
                started.set_exception(SpawnFailed(f"{name}: {event['why']}"))

    def _lose(self) -> None:
        """It has ended, and the kernel killed the engines; end what they may have left behind."""
        self.lost = True
        for pid in self._pids.values():
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        self._pids.clear()
        why = SpawnFailed(f"the spawner of engines ended{log_tail(self._log)}")
        for started in self._started.values():
            if not started.done():
                started.set_exception(why)
        for exit_ in self._exits.values():
            _settle(exit_, LOST_CODE)
        self._answered.set()


def _settle(future: asyncio.Future[int] | None, value: int) -> None:
    if future is not None and not future.done():
        future.set_result(value)
