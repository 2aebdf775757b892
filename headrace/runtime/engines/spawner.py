"""Starts engine processes on request and never outlives whoever asked. Run as a script.

    python spawner.py [--prefork]

It is the parent of every engine of one fleet, and uses nothing outside the standard library because
it may run in the engine's environment (`--prefork` imports vLLM there once and forks each engine
from that image: a second to start instead of fifteen, and the imports' memory is shared).

It reads one JSON object a line and answers likewise:

    {"op": "spawn", "id": "a", "argv": [...], "env": {...}, "log": "a.log", "cwd": "."}
    {"op": "signal", "id": "a", "signal": 15, "group": false}
      -> {"event": "ready"}, {"event": "started", "id": "a", "pid": 7}, {"event": "failed", ...},
         {"event": "exited", "id": "a", "code": 0}

An engine leads a session and process group of its own. When it ends its whole group is killed,
since vLLM's engine core survives a killed API server. When our input closes (our owner stopped,
crashed or was killed) every group is killed and we exit; when we die, the kernel kills the engines.

Source: prefork recipe and orphan facts measured on vLLM 0.32.0 (docs/operate/vllm.md).
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import multiprocessing
import os
import selectors
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

MAX_LINE_BYTES = 1 << 20
"""One command is a few KB; an owner that sends more is broken."""

PR_SET_PDEATHSIG = 1
"""Source: prctl(2)."""

IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Only the end of our input ends us: a signal to our whole session is our owner's to handle."""

VLLM_MAIN = "vllm.entrypoints.launchers.api_server.entry"
VLLM_WARM = (
    "vllm.entrypoints.openai.api_server",
    "vllm.v1.engine.async_llm",
    "vllm.v1.engine.core",
    "vllm.v1.engine.core_client",
    "vllm.v1.executor.uniproc_executor",
    "vllm.v1.worker.cpu_worker",
    "vllm.v1.worker.cpu_model_runner",
    "vllm.v1.attention.backends.cpu_attn",
    "vllm.model_executor.models.llama",
    "vllm.entrypoints.launchers.app",
    "vllm.entrypoints.openai.chat_completion.serving",
    "vllm.entrypoints.openai.completion.serving",
    "transformers",
    "uvloop",
)
"""What an engine imports while it starts; one that is gone in another version only costs time."""


def warm_vllm() -> Callable[[], None]:
    """Import vLLM and return its entry point, ready to be forked.

    The CPU platform insists on starting its engine core by ``spawn``, which would import it all
    again; it is handed ``fork`` instead, so the core shares this image too.
    """
    context = multiprocessing.get_context
    module: Any = multiprocessing
    module.get_context = lambda method=None: context("fork" if method == "spawn" else method)
    entry = importlib.import_module(VLLM_MAIN)
    for name in VLLM_WARM:
        with suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # what is shared stays shared: a collection would write to every object's header
    main: Callable[[], None] = entry.main
    return main


class Spawner:
    """The loop: commands from ``commands_fd``, events to ``events_fd``, children in between."""

    def __init__(
        self, commands_fd: int, events_fd: int, prefork: Callable[[], None] | None
    ) -> None:
        self._commands_fd = commands_fd
        self._events_fd = events_fd
        self._prefork = prefork
        self._pids: dict[str, int] = {}
        self._buffer = b""
        self._wake_r, self._wake_w = os.pipe()
        os.set_blocking(self._wake_r, False)
        os.set_blocking(self._wake_w, False)

    def run(self) -> None:
        """Serve until the commands end, then leave nothing running."""
        signal.set_wakeup_fd(self._wake_w, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        selector = selectors.DefaultSelector()
        selector.register(self._commands_fd, selectors.EVENT_READ)
        selector.register(self._wake_r, selectors.EVENT_READ)
        self._tell(event="ready")
        try:
            open_ = True
            while open_:
                ready = {key.fd for key, _ in selector.select()}
                if self._wake_r in ready:
                    self._drain_wakeups()
                    self._reap()
                if self._commands_fd in ready:
                    open_ = self._read()
        finally:
            for pid in self._pids.values():
                self._kill_group(pid)

    def _drain_wakeups(self) -> None:
        with suppress(BlockingIOError):
            while os.read(self._wake_r, 512):
                pass

    def _read(self) -> bool:
        chunk = os.read(self._commands_fd, 65536)
        if not chunk:
            return False
        *lines, self._buffer = (self._buffer + chunk).split(b"\n")
        if len(self._buffer) > MAX_LINE_BYTES:
            raise ValueError("a command is longer than 1 MiB")
        for line in lines:
            command = json.loads(line)
            if command["op"] == "spawn":
                self._spawn(command)
            else:
                self._signal(command)
        return True

    def _spawn(self, command: dict[str, Any]) -> None:
        owner = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            self._tell(event="failed", id=command["id"], why=str(error))
            return
        if pid == 0:
            self._become(command, owner)
        self._pids[command["id"]] = pid
        self._tell(event="started", id=command["id"], pid=pid)

    def _become(self, command: dict[str, Any], owner: int) -> None:
        """Turn this forked child into the engine; never returns."""
        code = 1
        try:
            os.setsid()
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != owner:  # it died before the line above
                os._exit(1)
            self._reset(command["log"])
            os.chdir(command.get("cwd") or ".")
            os.environ.update(command["env"])
            if self._prefork is None:
                os.execvp(command["argv"][0], command["argv"])  # noqa: S606 - our owner's words
            sys.argv = list(command["argv"])
            self._prefork()
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        except BaseException:  # noqa: BLE001 - the process's outermost frame: say why in its log
            traceback.print_exc()
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)

    def _reset(self, log: str) -> None:
        """Give the child ordinary signals and its own input and output, and none of our pipes."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, *IGNORED, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        if self._prefork is not None:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(out, 1)
        os.dup2(out, 2)
        for fd in {out, null, self._wake_r, self._wake_w, self._commands_fd, self._events_fd}:
            if fd > 2:
                os.close(fd)

    def _signal(self, command: dict[str, Any]) -> None:
        pid = self._pids.get(command["id"])
        if pid is None:
            return
        with suppress(ProcessLookupError):
            if command.get("group"):
                os.killpg(pid, command["signal"])
            else:
                os.kill(pid, command["signal"])

    def _reap(self) -> None:
        for name, pid in list(self._pids.items()):
            state = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if state is None:
                continue
            self._kill_group(pid)  # while the unreaped leader still keeps its number from reuse
            _, status = os.waitpid(pid, 0)
            del self._pids[name]
            self._tell(event="exited", id=name, code=os.waitstatus_to_exitcode(status))

    @staticmethod
    def _kill_group(pid: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)

    def _tell(self, **event: Any) -> None:
        with suppress(BrokenPipeError):
            os.write(self._events_fd, json.dumps(event).encode() + b"\n")


def main() -> None:
    """Take over standard input and output for the protocol; what engines print goes to stderr."""
    events_fd = os.dup(1)
    os.dup2(2, 1)
    prefork = warm_vllm() if "--prefork" in sys.argv[1:] else None
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    Spawner(0, events_fd, prefork).run()


if __name__ == "__main__":
    # Our own folder holds a module named vllm, which must not hide the real one.
    sys.path[:] = [path for path in sys.path if path != os.path.dirname(os.path.abspath(__file__))]
    main()
