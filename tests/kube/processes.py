"""Child processes that outlive the command that started them, and how to end them for certain."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

POLL_S = 0.05
COMMAND_LIMIT_S = 120.0


class CommandFailed(RuntimeError):
    """A command ended with a status other than 0; the message carries what it wrote."""


class TookTooLong(TimeoutError):
    """A wait reached its bound."""


def wait_until(
    what: str, reached: Callable[[], bool], limit_s: float, needed: Sequence[Daemon] = ()
) -> None:
    """Poll until ``reached`` says so.

    Raises:
        TookTooLong: it did not within ``limit_s``.
        CommandFailed: one of the processes that are ``needed`` for it has ended.
    """
    until_s = time.monotonic() + limit_s
    while not reached():
        for daemon in needed:
            if not daemon.alive():
                raise CommandFailed(f"{daemon.name} has ended: {what} will not come")
        if time.monotonic() > until_s:
            raise TookTooLong(f"after {limit_s:.0f} s: {what}")
        time.sleep(POLL_S)


def run(
    argv: Sequence[str | Path],
    stdin: str | None = None,
    limit_s: float = COMMAND_LIMIT_S,
    env: Mapping[str, str] | None = None,
) -> str:
    """Run a command to its end and return what it wrote to standard output.

    Raises:
        CommandFailed: its status was not 0.
    """
    done = subprocess.run(
        [str(word) for word in argv],
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        timeout=limit_s,
        env={**os.environ, **(env or {})},
        check=False,
    )
    if done.returncode != 0:
        shown = " ".join(str(word) for word in argv)
        raise CommandFailed(f"{shown}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


@dataclass(frozen=True, slots=True)
class Daemon:
    """A started process, the leader of a process group of its own."""

    name: str
    pid: int
    started_ticks: int

    def alive(self) -> bool:
        """Whether the leader still runs (and its pid was not given to another process)."""
        bury(self.pid)
        return _started_ticks(self.pid) == self.started_ticks

    def rss_bytes(self) -> int:
        """Return the resident memory of the whole group, in bytes."""
        return sum(_status_kb(pid, "VmRSS") for pid in _group(self.pid)) * 1024

    def stop(self, limit_s: float = 10.0) -> None:
        """End the whole group: ask first, kill what is left after ``limit_s``."""
        for sign, wait_s in ((signal.SIGTERM, limit_s), (signal.SIGKILL, 10.0)):
            if not _signal_group(self.pid, sign):
                return
            try:
                wait_until(f"{self.name} ends", lambda: not _group(self.pid), wait_s)
            except TookTooLong:
                continue
            return
        raise TookTooLong(f"{self.name} (group {self.pid}) does not end")

    def kill(self) -> None:
        """End the whole group at once, as a crash does."""
        _signal_group(self.pid, signal.SIGKILL)
        wait_until(f"{self.name} ends", lambda: not _group(self.pid), 10.0)


def start(
    name: str, argv: Sequence[str | Path], log: Path, env: Mapping[str, str] | None = None
) -> Daemon:
    """Start a process that outlives this one; its output is appended to ``log``."""
    with log.open("ab") as output:
        child = subprocess.Popen(
            [str(word) for word in argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **(env or {})},
        )
    # The process is kept track of by pid, across commands: it is not for Popen to warn of it.
    child.returncode = 0
    return Daemon(name, child.pid, _started_ticks(child.pid))


def bury(pid: int) -> None:
    """Take the exit status of a child of this process, so that it leaves no zombie."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return


def _signal_group(group: int, sign: signal.Signals) -> bool:
    if not _group(group):
        return False
    try:
        os.killpg(group, sign)
    except ProcessLookupError:
        return False
    return True


def _group(group: int) -> list[int]:
    """Return the living members of a process group."""
    bury(group)
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            fields = _stat(int(entry))
            if fields and fields[0] not in "ZX" and int(fields[2]) == group:
                found.append(int(entry))
    return found


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the name: state, parent, group, ..."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _started_ticks(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[19]) if fields and fields[0] not in "ZX" else -1


def _status_kb(pid: int, key: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))
