"""A worker dies while it serves; then Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
import time

import openai
import psutil
import pytest

from tests.e2e.vllm.conftest import STALL_S, Figures
from tests.e2e.vllm.stack import STOP_S, Stack, Worker, eventually

pytestmark = pytest.mark.vllm

MODEL = "small"
LONG_TOKENS = 600


class Traffic(threading.Thread):
    """Asks small questions one after the other until told to stop, and counts failures."""

    def __init__(self, url: str, number: int) -> None:
        super().__init__(name=f"traffic-{number}")
        self._url = url
        self._number = number
        self._over = threading.Event()
        self.served = 0
        self.failures: list[str] = []

    def run(self) -> None:
        with openai.OpenAI(
            base_url=self._url + "/v1", api_key="none", max_retries=0, timeout=60
        ) as client:
            turn = 0
            while not self._over.is_set():
                turn += 1
                try:
                    client.completions.create(
                        model=MODEL,
                        prompt=f"Caller {self._number}, turn {turn}",
                        max_tokens=4,
                        extra_body={"ignore_eos": True},
                    )
                    self.served += 1
                except openai.OpenAIError as error:
                    self.failures.append(repr(error))

    def stop(self) -> None:
        self._over.set()
        self.join(90)


class Stream(threading.Thread):
    """Reads one long stream; ``ended`` says how it did."""

    def __init__(self, url: str, request_id: str, max_tokens: int = LONG_TOKENS) -> None:
        super().__init__(name=request_id)
        self._url = url
        self._request_id = request_id
        self._max_tokens = max_tokens
        self.begun = threading.Event()
        self.ended = ""

    def run(self) -> None:
        try:
            with openai.OpenAI(
                base_url=self._url + "/v1", api_key="none", max_retries=0, timeout=60
            ) as client:
                for chunk in client.completions.create(
                    model=MODEL,
                    prompt=f"A long tale for {self._request_id}",
                    max_tokens=self._max_tokens,
                    stream=True,
                    extra_headers={"X-Request-Id": self._request_id},
                    extra_body={"ignore_eos": True},
                ):
                    self.begun.set()
                    self.ended = chunk.choices[0].finish_reason or ""
        except openai.OpenAIError as error:
            self.ended = f"error: {error}"
        finally:
            self.begun.set()


def kill_and_see_forgotten(stack: Stack, victim: Worker) -> tuple[float, float]:
    """Kill a worker; return when, and when the gateway knew no block of it any more."""
    assert stack.gauge("headrace_prefix_blocks", victim.endpoint), "it holds something"
    killed_s = time.monotonic()
    os.kill(victim.pid, signal.SIGKILL)
    eventually(lambda: not stack.gauge("headrace_prefix_blocks", victim.endpoint), 10)
    return killed_s, time.monotonic()


def decided_since(stack: Stack, since_s: float) -> list[str]:
    """Return the endpoints that were chosen since then, one per request."""
    decided, ago_s = stack.decided(1_000), time.monotonic() - since_s
    return [each["endpoint"] for each in decided if each["age_s"] < ago_s]


def test_when_a_worker_is_killed_the_other_serves_and_it_comes_back(
    stack: Stack, figures: Figures
) -> None:
    outcomes = stack.outcomes()
    figures["requests.failed"] = outcomes.get("engine_failed", 0) + outcomes.get(
        "internal_error", 0
    )
    traffic = [Traffic(stack.url, number) for number in range(2)]
    streams = [Stream(stack.url, f"long-{number}") for number in range(2)]
    for thread in (*streams, *traffic):
        thread.start()
    for stream in streams:
        assert stream.begun.wait(30)
    before = stack.workers()
    victim = before["vllm-0"]
    killed_s, forgotten_s = kill_and_see_forgotten(stack, victim)
    figures["kill.forgotten_s"] = forgotten_s - killed_s
    eventually(lambda: stack.workers()["vllm-0"].pid != victim.pid, 60)
    eventually(
        lambda: any(line["endpoint"] == "vllm-0.1" for line in stack.lines("endpoint_ready")), 60
    )
    figures["kill.serving_again_s"] = time.monotonic() - killed_s
    served = sum(thread.served for thread in traffic)
    eventually(lambda: sum(thread.served for thread in traffic) >= served + 10, 60)
    for thread in traffic:
        thread.stop()
    late = decided_since(stack, forgotten_s)
    for stream in streams:
        stream.join(90)
    lost = stack.outcomes().get("internal_error", 0)
    failures = [failure for thread in traffic for failure in thread.failures]
    figures["kill.requests_served"] = sum(thread.served for thread in traffic)
    figures["kill.requests_failed"] = len(failures) + lost
    assert failures == []
    assert lost == 0
    figures["kill.requests_to_the_dead"] = late.count(victim.endpoint)
    assert figures["kill.forgotten_s"] <= STALL_S
    assert len(late) >= 10
    assert victim.endpoint not in late
    for stream in streams:
        endpoint = stack.request(stream.name)["endpoint"]
        if endpoint == victim.endpoint:
            assert stream.ended.startswith("error: "), "a cut stream is told so"
        else:
            assert stream.ended == "length"
    eventually(lambda: stack.workers()["vllm-0"].report().running == 0, 30)
    assert [worker.endpoint for worker in stack.workers().values()] == ["vllm-0.1", "vllm-1"]


def test_ctrl_c_finishes_what_was_begun_and_leaves_no_process(
    stack: Stack, figures: Figures
) -> None:
    outcomes = stack.outcomes()
    figures["requests.served"] = outcomes["served"]
    figures["requests.refused_as_invalid"] = outcomes["refused_invalid"]
    stream = Stream(stack.url, "last", max_tokens=150)
    stream.start()
    assert stream.begun.wait(30)
    family = stack.family()
    groups = {os.getpgid(process.pid) for process in family}
    assert len(groups) >= 4, "the command, the spawner and each worker lead groups of their own"
    asked_s = time.monotonic()
    stack.interrupt()
    code = stack.process.wait(STOP_S)
    figures["stop.took_s"] = time.monotonic() - asked_s
    stream.join(30)
    _, alive = psutil.wait_procs(family, timeout=5)
    left = {process.pid for process in alive}
    left |= {pid for pid in psutil.pids() if _group(pid) in groups}
    figures["stop.processes_left"] = len(left)
    figures["streams.cut"] += stream.ended != "length"
    assert stream.ended == "length"
    assert code == 0
    assert left == set()


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None
