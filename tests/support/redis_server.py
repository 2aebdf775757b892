"""A real Redis server for a test: on a free port of loopback, with nothing on disk."""

import shutil
import socket
import subprocess
import time

BINARY = shutil.which("redis-server") or shutil.which("valkey-server")
MISSING = "redis-server is not installed (scripts/install-system redis-server)"
START_S = 10.0


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class RedisServer:
    """One server; ``stop`` and ``start`` again keep its port."""

    available = BINARY is not None
    missing = MISSING

    def __init__(self, *args: str) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._args = args
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert BINARY is not None
        self.process = subprocess.Popen(
            [
                *(BINARY, "--bind", "127.0.0.1", "--port", str(self.port)),
                *("--save", "", "--appendonly", "no", *self._args),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until_s = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1.0).close()
                return
            except OSError:
                assert self.process.poll() is None, "redis-server ended at once"
                assert time.monotonic() < until_s, "redis-server does not listen"
                time.sleep(0.01)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
