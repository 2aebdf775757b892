"""``headrace gateway --endpoints-file``: engines that are listed, unlisted and drained."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.serving_command import Serving, start_serving
from tests.support.streams import open_stream, rest

LIMIT_S = 30.0
MODEL = "tiny"


@dataclass
class Front:
    """Two simulated engines, and a gateway over those of them that a file lists."""

    engines: list[dict[str, Any]]
    file: Path
    log: Path
    gateway: Serving = field(init=False)

    def tell(self, *which: int, **more: object) -> None:
        """Exchange the file."""
        entries = [
            {"url": self.engines[index]["url"], "id": f"engine-{index}", **more} for index in which
        ]
        new = self.file.with_suffix(".new")
        new.write_text(yaml.safe_dump({"endpoints": entries}))
        new.replace(self.file)

    def served_by(self) -> str:
        """Have a stream served; return the endpoint that served it."""
        assert rest(open_stream(self.gateway.url, MODEL, 2))
        page = f"{self.gateway.url}/headrace/v1/decisions?limit=1"
        with urllib.request.urlopen(page, timeout=20) as reply:
            (decision,) = json.load(reply)["data"]
        return str(decision["endpoint"])

    def list_is_old(self) -> bool:
        """What the gateway's metric says."""
        with urllib.request.urlopen(f"{self.gateway.url}/metrics", timeout=20) as reply:
            page = reply.read().decode()
        (row,) = (row for row in page.splitlines() if row.startswith("headrace_endpoints_old "))
        return float(row.split()[1]) == 1.0

    def lines(self, event: str) -> list[dict[str, Any]]:
        found = [json.loads(text) for text in self.log.read_text().splitlines()]
        return [line for line in found if line.get("event") == event]

    def until(self, holds: Callable[[], bool]) -> None:
        until_s = time.monotonic() + LIMIT_S
        while not holds():
            assert time.monotonic() < until_s, self.log.read_text()[-3_000:]
            time.sleep(0.05)


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Front]:
    command = [sys.executable, "-m", "headrace.simulator.http", "--count", "2"]
    engines = subprocess.Popen(
        [*command, "--served-name", MODEL], stdout=subprocess.PIPE, text=True
    )
    assert engines.stdout is not None
    try:
        made = Front(
            json.loads(engines.stdout.readline())["engines"],
            tmp_path / "endpoints.yaml",
            tmp_path / "gateway.log",
        )
        made.tell(0)
        made.gateway = start_serving(
            *("gateway", "--endpoints-file", str(made.file), "--port", "0"),
            log=made.log,
            until="Ctrl-C stops the gateway",
        )
        try:
            yield made
        finally:
            made.gateway.close()
    finally:
        engines.kill()
        engines.communicate(timeout=20)


def test_a_stream_goes_on_to_its_end_on_an_engine_that_is_taken_out(front: Front) -> None:
    reply = open_stream(front.gateway.url, MODEL, 1_500)
    ended: list[bool] = []
    reading = threading.Thread(target=lambda: ended.append(rest(reply)))
    reading.start()
    front.tell(1)
    front.until(lambda: bool(front.lines("endpoints_file_read")))
    front.until(lambda: any(e["endpoint"] == "engine-1" for e in front.lines("endpoint_ready")))
    assert reading.is_alive(), "it was to be under way while its engine went"
    assert [front.served_by() for _ in range(3)] == ["engine-1"] * 3
    reading.join(LIMIT_S)
    assert ended == [True]


def test_one_that_drains_gets_nothing_new_and_its_streams_end(front: Front) -> None:
    reply = open_stream(front.gateway.url, MODEL, 1_500)
    ended: list[bool] = []
    reading = threading.Thread(target=lambda: ended.append(rest(reply)))
    reading.start()
    front.tell(0, draining=True)
    front.until(lambda: bool(front.lines("endpoints_file_read")))

    def refused() -> bool:
        try:
            rest(open_stream(front.gateway.url, MODEL, 1))
        except urllib.error.HTTPError as error:
            with error:
                return error.code == 503
        return False

    front.until(refused)
    assert reading.is_alive()
    reading.join(LIMIT_S)
    assert ended == [True]
    front.tell(0)
    front.until(lambda: not refused())


def test_a_bad_file_changes_nothing_and_is_told_by_field(front: Front) -> None:
    assert not front.list_is_old()
    front.file.write_text("endpoints: [{url: nowhere}]\n")
    front.until(lambda: bool(front.lines("endpoints_file_bad")))
    (line,) = front.lines("endpoints_file_bad")
    assert "endpoints[0].url: expected http://HOST:PORT" in line["why"]
    assert front.served_by() == "engine-0"
    front.file.unlink()
    front.until(lambda: len(front.lines("endpoints_file_bad")) == 2)
    assert front.served_by() == "engine-0"
    front.until(front.list_is_old)
    front.tell(0)
    front.until(lambda: not front.list_is_old())
