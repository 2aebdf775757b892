from __future__ import annotations

import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import openai
import orjson
import psutil
import pytest
from typer.testing import CliRunner

from headrace.cli.app import app

START_S = 60.0


@dataclass
class Up:
    """A `headrace up` that has said where it serves."""

    url: str
    told: str
    process: subprocess.Popen[str]

    def started(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def stop(self, signum: int = signal.SIGINT) -> int:
        self.process.send_signal(signum)
        return self.process.wait(30)


def start(tmp_path: Path, *options: str, until: str = "2 of 2 endpoints are ready") -> Up:
    command = [sys.executable, "-m", "headrace.cli", "up", "--port", "0", "--replicas", "2"]
    log = (tmp_path / "up.log").open("w")
    process = subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
    )
    log.close()
    assert process.stdout is not None
    told = ""
    deadline_s = time.monotonic() + START_S
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while until not in told:
            assert selector.select(deadline_s - time.monotonic()), (tmp_path / "up.log").read_text()
            piece = os.read(process.stdout.fileno(), 65_536).decode()
            assert piece, (tmp_path / "up.log").read_text()
            told += piece
    found = re.search(r"http://\S+:\d+", told)
    assert found is not None
    return Up(found.group(), told, process)


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    running = start(tmp_path, "--time-scale", "20")
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.stop()
        assert running.process.stdout is not None
        running.process.stdout.close()


def all_gone(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, timeout=20)[1]


def test_it_serves_the_openai_client_and_stops_all_it_started(up: Up) -> None:
    with openai.OpenAI(base_url=f"{up.url}/v1", api_key="none", max_retries=0) as client:
        model = client.models.list().data[0].id
        stream = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": "Hello"}],
            stream=True,
            max_tokens=8,
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    assert text
    started = up.started()
    assert started
    assert up.stop(signal.SIGINT) == 0
    assert all_gone(started)


def test_the_curl_it_prints_streams_a_token(up: Up) -> None:
    command = re.search(r"curl -N .*?\}'", up.told, re.DOTALL)
    assert command is not None
    done = subprocess.run(
        ["bash", "-c", command.group()], capture_output=True, text=True, check=True, timeout=60
    )
    assert "data: " in done.stdout
    assert done.stdout.rstrip().endswith("data: [DONE]")


def test_sigterm_lets_an_open_stream_finish(up: Up) -> None:
    with openai.OpenAI(base_url=f"{up.url}/v1", api_key="none", max_retries=0) as client:
        model = client.models.list().data[0].id
        stream = client.completions.create(
            model=model,
            prompt="Hello",
            stream=True,
            max_tokens=2000,
            extra_body={"ignore_eos": True},
        )
        chunks = 0
        started = up.started()
        for chunk in stream:
            chunks += bool(chunk.choices and chunk.choices[0].text)
            if chunks == 1:
                up.process.send_signal(signal.SIGTERM)
    assert chunks >= 1999
    assert up.process.wait(30) == 0
    assert all_gone(started)


def test_a_second_signal_does_not_wait_for_streams(up: Up) -> None:
    with openai.OpenAI(base_url=f"{up.url}/v1", api_key="none", max_retries=0) as client:
        model = client.models.list().data[0].id
        stream = client.completions.create(
            model=model,
            prompt="Hello",
            stream=True,
            max_tokens=100_000,
            extra_body={"ignore_eos": True},
        )
        next(iter(stream))
        started = up.started()
        up.process.send_signal(signal.SIGINT)
        host, port = up.url.removeprefix("http://").split(":")
        wait_until_refused(host, int(port))
        up.process.send_signal(signal.SIGINT)
        assert up.process.wait(15) == 0
        assert all_gone(started)
        stream.close()


def wait_until_refused(host: str, port: int) -> None:
    """Return once nobody listens there any more: the first signal has been taken."""
    deadline_s = time.monotonic() + 10
    while time.monotonic() < deadline_s:
        try:
            socket.create_connection((host, port), timeout=1).close()
        except OSError:
            return
        time.sleep(0.02)
    raise AssertionError("still listening")


def test_replay_through_it_serves_every_request_and_hits_the_cache(up: Up, tmp_path: Path) -> None:
    json = tmp_path / "replay.json"
    words = ["replay", "--url", up.url, "--workload", "conversation", "--rate", "4"]
    words += ["--time-scale", "20", "--limit", "100", "--json", str(json)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    figures = orjson.loads(json.read_bytes())["figures"]
    assert figures["replay.served"] == 100
    assert 0.5 * figures["replay.ideal_hit_ratio"] < figures["replay.hit_ratio"]
    assert figures["replay.hit_ratio"] <= figures["replay.ideal_hit_ratio"] + 0.01
    assert figures["replay.ttft_mean_s"] > 0


def test_an_occupied_port_stops_it_with_a_reason_and_nothing_is_left(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-m", "headrace.cli", "up", "--port", port],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 2
    assert port in done.stderr
    assert "Traceback" not in done.stderr
