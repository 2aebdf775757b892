"""Child processes by process group: started, watched and stopped. Uses subprocess and psutil."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import psutil

STOP_S: Final = 15.0
"""How long a process may take to stop before it is killed; routers wait for open streams."""


class StartError(Exception):
    """A process did not come up; the message holds the end of its log."""


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Child:
    """One program in a session of its own, on one set of cores; stopped on leaving the block."""

    def __init__(self, name: str, argv: Sequence[str], log: Path, *, core: int | None) -> None:
        self.name = name
        self._argv = [*([] if core is None else ["taskset", "-c", str(core)]), *argv]
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process is not None
        if self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_S)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def log_tail(self, size_bytes: int = 2_000) -> str:
        """Return the end of what it printed."""
        return self._log.read_bytes()[-size_bytes:].decode("utf-8", "replace")

    def cpu_s(self) -> float:
        """Return user and system time of the whole tree so far, in steps of 10 ms."""
        times = [process.cpu_times() for process in self._tree()]
        return sum(t.user + t.system for t in times)

    def rss_bytes(self) -> int:
        """Return the resident memory of the whole tree."""
        return sum(int(process.memory_info().rss) for process in self._tree())

    def wait_ready(self, url: str, limit_s: float = 60.0) -> None:
        """Wait until ``url`` answers 200.

        Raises:
            StartError: if it does not within ``limit_s``, or the process ends.

        """
        deadline_s = time.monotonic() + limit_s
        while time.monotonic() < deadline_s:
            assert self._process is not None
            if self._process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(url, timeout=2.0) as reply:  # noqa: S310 -- our own URL
                    if reply.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                pass
            time.sleep(0.1)
        raise StartError(f"{self.name} did not come up:\n{self.log_tail()}")

    def _tree(self) -> list[psutil.Process]:
        assert self._process is not None
        root = psutil.Process(self._process.pid)
        return [root, *root.children(recursive=True)]
