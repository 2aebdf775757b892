"""What is measured: the cases, one measurement, and the proof that the answers were right."""

from __future__ import annotations

import http.client
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import psutil

from bench.gateway.load import PATH, Load, run_load
from bench.gateway.process import Child
from bench.gateway.upstream import CHUNKS, Served, served

ROUTER_CORE: Final = 0
LOAD_CORE: Final = 1
"""The router has a core to itself; the engine and wrk share the other, and need less than it."""


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of load; ``bodies`` names the pool it sends."""

    name: str
    bodies: str
    connections: int
    duration_s: int


CASES: Final = (
    Case("request_c1", "plain", 1, 4),
    Case("request_c32", "plain", 32, 4),
    Case("stream_c1", "stream", 1, 5),
    Case("stream_c32", "stream", 32, 5),
    Case("long_c1", "long", 1, 4),
)


class WrongAnswerError(Exception):
    """A contender did not relay what the engine said."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One contender under one case, once.

    Attributes:
        cpu_us: Processor time of the router's process tree per completed request.
        rps: Requests completed per second.
        p50_ms: Median time to the end of the reply.
        p99_ms: The same at the 99th percentile.
        faults: What went wrong, counted by kind; empty when nothing did.
        asked: What the router asked of the engine besides, per request (vllm-router: for tokens).
        share: Of the requests, the part that went to the busier endpoint.
        disturbed: Of the machine's processor time, the part that other programs took meanwhile.

    """

    cpu_us: float
    rps: float
    p50_ms: float
    p99_ms: float
    faults: dict[str, int]
    asked: float
    share: float
    disturbed: float = 0.0

    @property
    def errors(self) -> int:
        """How much went wrong."""
        return sum(self.faults.values())


def measure(router: Child, port: int, upstream_port: int, case: Case, bodies: Path) -> Measured:
    """Put ``case`` to a running router and read its processor time before and after."""
    before, cpu_before_s, machine_before = served(upstream_port), router.cpu_s(), _Busy.now()
    load = run_load(
        port,
        bodies / f"{case.bodies}.txt",
        connections=case.connections,
        duration_s=case.duration_s,
        core=LOAD_CORE,
    )
    time.sleep(0.2)  # requests in flight when wrk left are aborted; the router pays for that too
    cpu_s, after = router.cpu_s() - cpu_before_s, served(upstream_port)
    ours_s = cpu_s + (after.cpu_us - before.cpu_us) / 1e6
    counts = [b - a for a, b in zip(before.per_endpoint, after.per_endpoint, strict=True)]
    return Measured(
        cpu_us=cpu_s / max(1, load.requests) * 1e6,
        rps=load.rps,
        p50_ms=load.p50_ms,
        p99_ms=load.p99_ms,
        faults=faults(before, after, load, case.connections),
        asked=(after.not_found - before.not_found) / max(1, load.requests),
        share=max(counts) / max(1, sum(counts)),
        disturbed=machine_before.taken_by_others(_Busy.now(), ours_s),
    )


@dataclass(frozen=True, slots=True)
class _Busy:
    """Processor seconds since the machine started: used by anybody, by our children, and all."""

    busy_s: float
    children_s: float
    total_s: float

    @classmethod
    def now(cls) -> Self:
        times = psutil.cpu_times()
        total_s = sum(times)
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        idle_s = times.idle + getattr(times, "iowait", 0.0)
        return cls(total_s - idle_s, spent.ru_utime + spent.ru_stime, total_s)

    def taken_by_others(self, later: _Busy, ours_s: float) -> float:
        """Return their share; ``ours_s`` is what was ours but no child that has ended (wrk)."""
        busy_s = later.busy_s - self.busy_s - (later.children_s - self.children_s) - ours_s
        return max(0.0, busy_s / max(1e-9, later.total_s - self.total_s))


def faults(before: Served, after: Served, load: Load, connections: int) -> dict[str, int]:
    """Count by kind what cannot be right, both as the client and as the engine saw it.

    When wrk stops, up to ``connections`` requests are in flight: those are no faults.
    """
    extra = after.requests - before.requests - load.requests
    found = {
        "refused, broken or late": load.errors,
        "sent twice": extra - connections,
        "invented": -extra,
        "not read": after.unfinished_writes - before.unfinished_writes,
        "cut short": after.aborted - before.aborted - connections,
    }
    return {kind: count for kind, count in found.items() if count > 0}


def check_answers(name: str, port: int, upstream_port: int, bodies: Path) -> None:
    """Ask once plainly and once for a stream, and compare with what the engine itself answers.

    Raises:
        WrongAnswerError: if a byte of the plain body or an event of the stream differs.

    """
    for pool in ("plain", "stream"):
        body = (bodies / f"{pool}.txt").read_bytes().partition(b"\n")[0]
        direct, relayed = ask(upstream_port, body), ask(port, body)
        if relayed != direct:
            raise WrongAnswerError(f"{name}: {pool} answer differs:\n{relayed[-500:]!r}")
    events = relayed.count(b"data: ")
    if events != CHUNKS + 1:
        raise WrongAnswerError(f"{name}: {events} events, expected {CHUNKS} and [DONE]")


def ask(port: int, body: bytes) -> bytes:
    """Send one request and return the body of the reply."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10.0)
    try:
        connection.request("POST", PATH, body, {"Content-Type": "application/json"})
        reply = connection.getresponse()
        content = reply.read()
        if reply.status != 200:
            raise WrongAnswerError(f"{reply.status} {content[:500]!r}")
        return content
    finally:
        connection.close()
