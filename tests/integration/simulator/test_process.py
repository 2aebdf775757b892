"""The process: its command line, its one line of output, its end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

COMMAND = [sys.executable, "-m", "headrace.simulator.http"]


class Running:
    def __init__(self, *flags: str, stdin: str | None = None) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdin is not None
        if stdin is not None:
            self.process.stdin.write(stdin)
        self.process.stdin.close()
        self.process.stdin = None  # or communicate() would flush it
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate(timeout=20)
        self.engines: list[dict[str, Any]] = json.loads(line)["engines"]

    def stream(self, tokens: int) -> Any:
        body = {"prompt": "p", "max_tokens": tokens, "ignore_eos": True, "stream": True}
        request = urllib.request.Request(
            self.engines[0]["url"] + "/v1/completions",
            json.dumps(body).encode(),
            {"content-type": "application/json"},
        )
        return urllib.request.urlopen(request, timeout=20)

    def end(self, number: int) -> tuple[int, str]:
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=20)
        return self.process.returncode, errors


@pytest.fixture
def running() -> Iterator[list[Running]]:
    made: list[Running] = []
    yield made
    for item in made:
        if item.process.poll() is None:
            item.process.kill()
            item.process.communicate()


def test_it_tells_where_its_engines_are_and_ends_on_a_signal(running: list[Running]) -> None:
    config = "count: 2\ntime_scale: 10\nengine: {hardware: A100, served_names: [tiny]}\n"
    running.append(Running("--config", "-", "--kv-events", stdin=config))
    engines = running[0].engines
    assert [engine["index"] for engine in engines] == [0, 1]
    assert all(engine["kv_events"].startswith("tcp://127.0.0.1:") for engine in engines)
    for engine in engines:
        with urllib.request.urlopen(engine["url"] + "/v1/models", timeout=20) as answer:
            assert json.load(answer)["data"][0]["id"] == "tiny"
    assert running[0].end(signal.SIGINT) == (0, "")


def test_a_stream_under_way_ends_before_the_process_does(running: list[Running]) -> None:
    running.append(Running("--time-scale", "2"))
    with running[0].stream(100) as answer:
        first = answer.readline()
        ended: list[tuple[int, str]] = []
        waiter = threading.Thread(target=lambda: ended.append(running[0].end(signal.SIGTERM)))
        waiter.start()
        text = (first + answer.read()).decode()
    waiter.join(timeout=20)
    assert text.count("data: ") == 101
    assert text.endswith("data: [DONE]\n\n")
    assert ended == [(0, "")]


def test_a_taken_port_is_an_error_that_names_it(running: list[Running]) -> None:
    running.append(Running())
    port = running[0].engines[0]["url"].rpartition(":")[2]
    second = subprocess.run(
        [*COMMAND, "--port", port], capture_output=True, text=True, timeout=30, check=False
    )
    assert second.returncode == 1
    assert second.stderr.startswith("error: ")
    assert port in second.stderr


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--set", "engine.blocksize=16"], "engine.blocksize: unknown key; known here: block_size"),
        (["--hardware", "B9000"], "unknown hardware 'B9000'; known: A10, A100"),
        (["--set", "engine.model.layers=2"], "engine.model"),
        (["--time-scale", "0"], "time_scale: input should be greater than 0"),
        (["--ports", "1,2", "--set", "count=3"], "2 given for 3 engine(s)"),
        (["--model", "Llama-3.1-70B", "--hardware", "L4", "--tp", "1"], "leaves no room for KV"),
    ],
)
def test_settings_that_make_no_sense_stop_it(flags: list[str], told: str) -> None:
    done = subprocess.run(
        [*COMMAND, *flags], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
