"""``headrace fleet``: engines in one process, two gateways apart from it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.serving_command import Serving, start_serving
from tests.support.streams import Streams, open_stream, rest

LIMIT_S = 30.0
MODEL = "Llama-3.1-8B"


@dataclass
class Apart:
    """The parts, and where they keep their files."""

    folder: Path
    fleet: Serving
    gateways: list[Serving]

    @property
    def urls(self) -> list[str]:
        return [gateway.url for gateway in self.gateways]

    def lines(self, name: str, event: str) -> list[dict[str, Any]]:
        texts = (self.folder / f"{name}.log").read_text().splitlines()
        found = [json.loads(text) for text in texts]
        return [line for line in found if line.get("event") == event]


def start_fleet(folder: Path, name: str) -> Serving:
    return start_serving(
        *("fleet", "--socket", str(folder / "fleet.sock"), "--replicas", "2"),
        log=folder / f"{name}.log",
        until="2 of 2 endpoints are ready",
    )


@pytest.fixture
def apart(tmp_path: Path) -> Iterator[Apart]:
    parts = Apart(tmp_path, start_fleet(tmp_path, "fleet"), [])
    try:
        for index in range(2):
            parts.gateways.append(
                start_serving(
                    *("gateway", "--socket", str(tmp_path / "fleet.sock"), "--port", "0"),
                    log=tmp_path / f"gateway-{index}.log",
                    until="Ctrl-C stops the gateway",
                )
            )
        yield parts
    finally:
        for part in (*parts.gateways, parts.fleet):
            part.close()


def until(holds: Callable[[], bool], what: str) -> None:
    until_s = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < until_s, what
        time.sleep(0.02)


def status_of(url: str) -> tuple[int, str]:
    try:
        return (200, "") if rest(open_stream(url, MODEL, 2)) else (0, "cut")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)["error"]["message"]


def test_a_fleet_that_is_stopped_under_load_cuts_no_stream(apart: Apart) -> None:
    engines = apart.fleet.started()
    assert engines
    with Streams(apart.urls, MODEL, tokens=150, callers=3) as streams:
        streams.until_whole(3)
        apart.fleet.process.send_signal(signal.SIGTERM)
        until(lambda: bool(streams.refused), "a fleet that goes is given nothing new")
        assert apart.fleet.process.poll() is None, "it waits for what is in flight"
        assert apart.fleet.process.wait(LIMIT_S) == 0
    assert streams.cut == []
    assert all("503 " in text for text in streams.refused), streams.refused[0]
    assert min(streams.whole.values()) >= 3
    assert not psutil.wait_procs(engines, timeout=10)[1]
    assert not (apart.folder / "fleet.sock").exists()
    assert status_of(apart.urls[0]) == (503, f"no endpoint is ready for model '{MODEL}'")


def test_gateways_outlive_a_killed_fleet_and_find_the_next(apart: Apart) -> None:
    engines = apart.fleet.started()
    apart.fleet.process.kill()
    apart.fleet.process.wait(LIMIT_S)
    assert not psutil.wait_procs(engines, timeout=10)[1], "engines do not outlive their fleet"
    assert (apart.folder / "fleet.sock").exists()
    for index, url in enumerate(apart.urls):
        until(lambda url=url: status_of(url)[0] == 503, "engines that are gone")  # type: ignore[misc]
        assert status_of(url) == (503, f"no endpoint is ready for model '{MODEL}'")
        (line,) = apart.lines(f"gateway-{index}", "fleet_away")
        assert line["effect"] == "the last list stays in use"
    apart.fleet.close()
    apart.fleet = start_fleet(apart.folder, "again")
    for index, url in enumerate(apart.urls):
        until(lambda url=url: status_of(url)[0] == 200, "the restarted fleet")  # type: ignore[misc]
        assert apart.lines(f"gateway-{index}", "fleet_back")


def test_a_second_fleet_at_the_socket_of_a_living_one_says_so(apart: Apart) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "headrace.cli", "fleet", "--socket", apart.folder / "fleet.sock"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert "publish.socket" in done.stderr
    assert "another process listens there" in done.stderr
    assert "Traceback" not in done.stderr
    assert status_of(apart.urls[0]) == (200, "")


def test_a_second_signal_does_not_wait_for_streams(apart: Apart) -> None:
    engines = apart.fleet.started()
    with open_stream(apart.urls[0], MODEL, 100_000) as reply:
        assert reply.readline()
        apart.fleet.process.send_signal(signal.SIGINT)
        until(lambda: status_of(apart.urls[0])[0] == 503, "it has begun to stop")
        apart.fleet.process.send_signal(signal.SIGINT)
        assert apart.fleet.process.wait(15) == 0
    assert not psutil.wait_procs(engines, timeout=10)[1]
    assert not (apart.folder / "fleet.sock").exists()
