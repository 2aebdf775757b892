"""A command that serves, as a process of its own: started, read until it says so, and stopped."""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

START_S = 60.0


@dataclass
class Serving:
    """A command that has said where it serves; ``url`` is empty for one that listens nowhere."""

    url: str
    told: str
    process: subprocess.Popen[str]

    def started(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def stop(self, signum: int = signal.SIGINT) -> int:
        self.process.send_signal(signum)
        return self.process.wait(30)

    def close(self) -> None:
        """Leave nothing behind."""
        if self.process.poll() is None:
            self.stop()
        assert self.process.stdout is not None
        self.process.stdout.close()


def start_serving(*words: str, log: Path, until: str) -> Serving:
    """Run a headrace command until it prints ``until``; its log goes to a file."""
    with log.open("w") as lines:
        process = subprocess.Popen(
            [sys.executable, "-m", "headrace.cli", *words],
            stdout=subprocess.PIPE,
            stderr=lines,
            text=True,
            start_new_session=True,
        )
    assert process.stdout is not None
    told = ""
    deadline_s = time.monotonic() + START_S
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while until not in told:
            assert selector.select(deadline_s - time.monotonic()), log.read_text()
            piece = os.read(process.stdout.fileno(), 65_536).decode()
            assert piece, log.read_text()
            told += piece
    found = re.search(r"http://\S+:\d+", told)
    return Serving(found.group() if found is not None else "", told, process)
