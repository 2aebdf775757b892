"""One ``headrace up --engine vllm`` as a user would start it, and what can be seen of it."""

from __future__ import annotations

import json
import os
import re
import selectors
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from headrace.core.endpoint import EndpointView, KvEventSource, ModelFiles
from headrace.core.ids import EndpointId, ModelName
from headrace.runtime.metrics_text import EngineReport, parse_metrics

START_S = 240.0
STOP_S = 60.0
LOOK_S = 0.05
CONTEXT_TOKENS = 4_096
MODEL = ModelName("small")

SETTINGS: dict[str, Any] = {
    # Two engines and all else share the cores here, so a prompt's tokens may take their time.
    "gateway": {"port": 0, "tokens": {"limit_ms": 1_000}},
    "log": {"form": "json"},
    "fleet": {
        "max_model_tokens": CONTEXT_TOKENS,
        # 8,192 tokens of this model in fp32.
        "kv_cache_bytes": 128 << 20,
        "engine_args": [
            # In bf16 the tokens of a prompt depend on what it was batched with.
            *("--dtype", "float32"),
            *("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
        ],
        "env": {"HF_HUB_OFFLINE": "1"},
        "restart": {"first_s": 0.1},
    },
}


@dataclass(frozen=True, slots=True)
class Worker:
    """One life of one vLLM worker; its endpoint is named after the unit and the life."""

    endpoint: str
    pid: int
    url: str

    def report(self) -> EngineReport:
        """Return what its own metrics page says now."""
        with urllib.request.urlopen(self.url + "/metrics", timeout=10) as reply:
            return parse_metrics(reply.read().decode())


class Stack:
    """The running command. ``start_s`` is how long it took until two workers served."""

    def __init__(self, model: Path, folder: Path, settings: Mapping[str, Any] = SETTINGS) -> None:
        self.model = model
        self.files = ModelFiles(str(model))
        config = folder / "up.yaml"
        config.write_text(yaml.safe_dump(settings))
        self._log = folder / "up.log"
        command = [sys.executable, "-m", "headrace.cli", "up", "--engine", "vllm"]
        command += ["--model", str(model), "--replicas", "2", "--config", str(config)]
        started_s = time.monotonic()
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
            )
        try:
            self.url = self._announced()
        except BaseException:
            self.kill()
            raise
        self.start_s = time.monotonic() - started_s

    def workers(self) -> dict[str, Worker]:
        """Return the newest life of each worker, by the name of its unit."""
        lives: dict[str, int] = {}
        newest: dict[str, Worker] = {}
        for line in self.lines("engine_started"):
            unit = line["unit"]
            life = lives[unit] = lives.get(unit, -1) + 1
            endpoint = unit if life == 0 else f"{unit}.{life}"
            newest[unit] = Worker(endpoint, line["pid"], f"http://127.0.0.1:{line['ports'][0]}")
        return newest

    def views(self) -> list[EndpointView]:
        """Return the workers as endpoints that publish KV events, for who follows them too."""
        found = []
        for name, worker in self.workers().items():
            with urllib.request.urlopen(worker.url + "/kv_event_sources", timeout=10) as reply:
                (told,) = json.load(reply).values()
            events = KvEventSource(told["endpoint"], told["replay_endpoint"], told["topic"])
            found.append(EndpointView(EndpointId(name), worker.url, (MODEL,), kv_events=events))
        return found

    def reports(self) -> dict[str, EngineReport]:
        """Return the metrics of every worker, by the name of its unit."""
        return {name: worker.report() for name, worker in self.workers().items()}

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Return the log lines of one kind so far."""
        found = []
        for text in self._log.read_text().splitlines():
            line = json.loads(text) if text.startswith("{") else {}
            if line.get("event") == event:
                found.append(line)
        return found

    def request(self, request_id: str) -> dict[str, Any]:
        """Return the one log line of a request, once it is written."""
        found: list[dict[str, Any]] = []

        def written() -> bool:
            found[:] = [line for line in self.lines("request") if line["request_id"] == request_id]
            return bool(found)

        eventually(written, 10)
        (line,) = found
        return line

    def gauge(self, name: str, endpoint: str) -> float | None:
        """Return a gauge of the gateway's on one endpoint, or None where it has none."""
        with urllib.request.urlopen(self.url + "/metrics", timeout=10) as reply:
            page = reply.read().decode()
        found = re.search(rf'^{name}{{endpoint="{endpoint}"}} (\S+)$', page, re.MULTILINE)
        return None if found is None else float(found.group(1))

    def decided(self, limit: int) -> list[dict[str, Any]]:
        """Return the newest decisions in short, newest first."""
        url = f"{self.url}/headrace/v1/decisions?limit={limit}"
        with urllib.request.urlopen(url, timeout=10) as reply:
            data: list[dict[str, Any]] = json.load(reply)["data"]
        return data

    def outcomes(self) -> dict[str, int]:
        """Return how many requests the gateway ended, by outcome."""
        with urllib.request.urlopen(self.url + "/metrics", timeout=10) as reply:
            page = reply.read().decode()
        counted: dict[str, int] = {}
        for outcome, value in re.findall(
            r'^headrace_requests_total\{.*outcome="(\w+)".*\} (\S+)$', page, re.MULTILINE
        ):
            counted[outcome] = counted.get(outcome, 0) + int(float(value))
        return counted

    def family(self) -> list[psutil.Process]:
        """Return every process that the command started, itself included."""
        own = psutil.Process(self.process.pid)
        return [own, *own.children(recursive=True)]

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """End it whatever state it is in."""
        if self.process.poll() is None:
            self.interrupt()
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(STOP_S)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _announced(self) -> str:
        """Read what it says until all workers serve; return its URL."""
        assert self.process.stdout is not None
        told, until_s = "", time.monotonic() + START_S
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while "2 of 2 endpoints are ready" not in told:
                ready = selector.select(until_s - time.monotonic())
                piece = os.read(self.process.stdout.fileno(), 65_536).decode() if ready else ""
                assert piece, f"not ready: {told}\n{self._log.read_text()[-4_000:]}"
                told += piece
        found = re.search(r"http://\S+:\d+", told)
        assert found is not None
        return found.group()


def eventually(holds: Callable[[], bool], limit_s: float) -> float:
    """Look until something holds that nobody announces; return the seconds it took."""
    started_s = time.monotonic()
    while not holds():
        assert time.monotonic() - started_s < limit_s, f"not within {limit_s} s"
        time.sleep(LOOK_S)
    return time.monotonic() - started_s
