"""``headrace gateway`` over engines that it did not start."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.serving_command import Serving, start_serving

TEXT = "abcd" * 600
LIMIT_S = 30.0


@dataclass
class Engines:
    """Two simulated engines of one process, and a gateway over them."""

    process: subprocess.Popen[str]
    told: list[dict[str, Any]]
    gateway: Serving

    def get(self, url: str) -> str:
        with urllib.request.urlopen(url, timeout=20) as reply:
            text: str = reply.read().decode()
            return text

    def ask(self, **headers: str) -> tuple[int, dict[str, Any]]:
        body = {"model": "tiny", "prompt": TEXT, "max_tokens": 4}
        request = urllib.request.Request(
            f"{self.gateway.url}/v1/completions",
            json.dumps(body).encode(),
            {"content-type": "application/json", **headers},
        )
        try:
            with urllib.request.urlopen(request, timeout=20) as reply:
                return reply.status, json.load(reply)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def metric(self, line: str) -> float:
        page = self.get(f"{self.gateway.url}/metrics")
        found = [row for row in page.splitlines() if row.startswith(line)]
        return float(found[0].split()[-1]) if found else 0.0

    def until_metric(self, line: str, least: float) -> None:
        deadline_s = time.monotonic() + LIMIT_S
        while self.metric(line) < least:
            assert time.monotonic() < deadline_s, line
            time.sleep(0.05)

    def last_decision(self) -> dict[str, Any]:
        page = json.loads(self.get(f"{self.gateway.url}/headrace/v1/decisions?limit=1"))
        (found,) = page["data"]
        assert isinstance(found, dict)
        return found


@pytest.fixture
def engines(tmp_path: Path) -> Iterator[Engines]:
    command = [sys.executable, "-m", "headrace.simulator.http", "--count", "2", "--kv-events"]
    process = subprocess.Popen(
        [*command, "--time-scale", "20", "--served-name", "tiny"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        told = json.loads(process.stdout.readline())["engines"]
        endpoints = [
            {
                "url": engine["url"],
                "id": f"engine-{zone}",
                "labels": {"zone": zone},
                "kv_events": {"events": engine["kv_events"], "replay": engine["kv_replay"]},
                "simulated": True,
            }
            for engine, zone in zip(told, "ab", strict=True)
        ]
        config = tmp_path / "gateway.yaml"
        routing = {"labels_header": "x-zone-labels"}
        config.write_text(
            yaml.safe_dump(
                {
                    "gateway": {"routing": routing},
                    "endpoints": endpoints,
                    "log": {"form": "json"},
                    "probe": {"failures_to_down": 1, "period_s": 0.2},
                }
            )
        )
        gateway = start_serving(
            *("gateway", "--config", str(config), "--port", "0"),
            log=tmp_path / "gateway.log",
            until="2 of 2 endpoints are ready",
        )
        try:
            yield Engines(process, told, gateway)
        finally:
            gateway.close()
    finally:
        process.kill()
        process.communicate(timeout=20)


def test_it_routes_by_what_engines_tell_and_leaves_them_running(
    engines: Engines, tmp_path: Path
) -> None:
    for zone in "ab":
        engines.until_metric(f'headrace_kv_events_synced{{endpoint="engine-{zone}"}}', 1)
    models = json.loads(engines.get(f"{engines.gateway.url}/v1/models"))["data"]
    assert [model["id"] for model in models] == ["tiny"]
    for zone in "abba":
        status, _ = engines.ask(**{"X-Zone-Labels": f"zone={zone}"})
        assert status == 200
        assert engines.last_decision()["endpoint"] == f"engine-{zone}"
    blocks = 'headrace_prefix_blocks{endpoint="engine-b"}'
    engines.until_metric(blocks, 600 // 16)
    assert 0 < engines.metric('headrace_kv_event_age_seconds{endpoint="engine-b"}') < LIMIT_S
    status, reply = engines.ask()
    assert status == 200
    decision = engines.last_decision()
    assert decision["prompt_tokens"] == reply["usage"]["prompt_tokens"]
    cached = reply["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert decision["cached_tokens"] == cached > 0
    assert engines.metric('headrace_tokenised_total{result="exact"}') >= 1

    log = (tmp_path / "gateway.log").read_text()
    assert re.findall(r"tokenizer_\w+", log) == ["tokenizer_verified"]
    assert engines.gateway.stop(signal.SIGTERM) == 0
    assert "tiny" in engines.get(f"{engines.told[0]['url']}/v1/models")


def test_engines_that_are_gone_are_a_503_that_may_be_tried_again(engines: Engines) -> None:
    engines.process.kill()
    deadline_s = time.monotonic() + LIMIT_S
    while engines.metric('headrace_endpoints{health="down"}') < 2:
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    status, reply = engines.ask()
    assert status == 503
    assert "no endpoint is ready for model 'tiny'" in reply["error"]["message"]
