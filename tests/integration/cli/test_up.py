from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import orjson
import psutil
import pytest
from typer.testing import CliRunner

from headrace.cli.app import app
from tests.support.serving_command import Serving, start_serving


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Serving]:
    running = start_serving(
        *("up", "--port", "0", "--replicas", "2", "--time-scale", "20"),
        log=tmp_path / "up.log",
        until="2 of 2 endpoints are ready",
    )
    try:
        yield running
    finally:
        running.close()


def all_gone(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, timeout=20)[1]


def test_it_serves_the_openai_client_and_stops_all_it_started(up: Serving) -> None:
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


def test_the_curl_it_prints_streams_a_token(up: Serving) -> None:
    command = re.search(r"curl -N .*?\}'", up.told, re.DOTALL)
    assert command is not None
    done = subprocess.run(
        ["bash", "-c", command.group()], capture_output=True, text=True, check=True, timeout=60
    )
    assert "data: " in done.stdout
    assert done.stdout.rstrip().endswith("data: [DONE]")


def test_sigterm_lets_an_open_stream_finish(up: Serving) -> None:
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


def test_a_second_signal_does_not_wait_for_streams(up: Serving) -> None:
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


def test_replay_through_it_serves_every_request_and_hits_the_cache(
    up: Serving, tmp_path: Path
) -> None:
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
