"""``headrace up`` and ``headrace fleet`` on Ray as a user would start them, what they say, traffic."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.ray.machines import eventually, mark

READY_S = 120.0
STOP_S = 90.0
REQUEST_S = 30.0


class Up:
    """The running command: ``up``, or ``fleet``, which listens nowhere."""

    def __init__(
        self, address: str, folder: Path, fleet: dict[str, Any], command: str = "up"
    ) -> None:
        number = len(list(folder.glob("up-*.yaml")))
        config = folder / f"up-{number}.yaml"
        self._log = folder / f"up-{number}.log"
        env = {**fleet.get("env", {}), **mark()}
        gateway = {"gateway": {"port": 0, "tokens": {"limit_ms": 1_000}}}
        settings = {
            **(gateway if command == "up" else {}),
            "log": {"form": "json"},
            "fleet": {"kind": "ray", "restart": {"first_s": 0.1}, **fleet, "env": env},
        }
        config.write_text(yaml.safe_dump(settings))
        words = [sys.executable, "-m", "headrace.cli", command, "--config", str(config)]
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [*words, "--address", address],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def said(self) -> str:
        return self._log.read_text()

    def tail(self) -> str:
        return self.said()[-6_000:]

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Return the log lines of one kind so far."""
        found = []
        for text in self.said().splitlines():
            if text.startswith("{") and text.endswith("}"):
                line = json.loads(text)
                if line.get("event") == event:
                    found.append(line)
        return found

    def ready(self) -> dict[str, int]:
        """Return the engine's pid of each replica, as last said when it was ready."""
        gone = {line["replica"] for line in self.lines("replica_removed")}
        said = self.lines("replica_adopted") + self.lines("replica_ready")
        return {
            line["replica"]: line["pid"]
            for line in said
            if line["pid"] is not None and line["replica"] not in gone
        }

    def wait_ready(self, count: int, limit_s: float = READY_S) -> float:
        """Wait until so many endpoints serve; return the seconds it took."""

        def told() -> bool:
            assert self.process.poll() is None, self.tail()
            return f"{count} of {count} endpoints are ready" in self.said()

        return eventually(told, limit_s, self.tail)

    def serving(self) -> set[str]:
        """Return the endpoints whose last word was that they are ready."""
        up: set[str] = set()
        for text in self.said().splitlines():
            line = json.loads(text) if text.startswith("{") and text.endswith("}") else {}
            if line.get("event") == "endpoint_ready":
                up.add(line["endpoint"])
            elif line.get("event") == "endpoint_down":
                up.discard(line["endpoint"])
        removed = {line["replica"] for line in self.lines("replica_removed")}
        return {name for name in up if name.partition(".")[0] not in removed}

    @property
    def url(self) -> str:
        found = re.search(r"http://127\.0\.0\.1:\d+", self.said().partition("Headrace serves")[2])
        assert found is not None, self.tail()
        return found.group()

    def ask(self, model: str, tokens: int = 8) -> str:
        """Have one reply generated; return its text.

        Raises:
            OSError: when it failed.

        """
        body = {
            "model": model,
            "max_tokens": tokens,
            "messages": [{"role": "user", "content": "Hi"}],
        }
        request = urllib.request.Request(
            self.url + "/v1/chat/completions",
            json.dumps(body).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=REQUEST_S) as reply:
            return str(json.load(reply)["choices"][0]["message"]["content"])

    def crash(self) -> None:
        """End it without a word."""
        self.process.kill()
        self.process.wait(STOP_S)

    def stop(self) -> None:
        """Press Ctrl-C and wait."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(STOP_S)
                raise AssertionError(self.tail()) from None


class Traffic:
    """A few callers without pause, until told to end."""

    def __init__(self, up: Up, model: str, callers: int = 3) -> None:
        self.served = 0
        self.failures: list[str] = []
        self._up, self._model = up, model
        self._end = threading.Event()
        self._lock = threading.Lock()
        self._callers = [threading.Thread(target=self._call) for _ in range(callers)]

    def __enter__(self) -> Traffic:
        for caller in self._callers:
            caller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for caller in self._callers:
            caller.join(2 * REQUEST_S)

    def _call(self) -> None:
        while not self._end.wait(0.1):
            try:
                self._up.ask(self._model)
            except urllib.error.HTTPError as error:
                self._failed(f"{error}: {error.read()[:500]!r}")
            except OSError as error:
                self._failed(repr(error))
            else:
                with self._lock:
                    self.served += 1

    def _failed(self, why: str) -> None:
        with self._lock:
            self.failures.append(why)
