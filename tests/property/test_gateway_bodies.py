"""No body, whatever is in it, is answered with a server error; each request has one outcome."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from gateway.accounting import Accounts
from gateway.admission import Admission
from gateway.app import Gateway, cold_app
from gateway.config import GatewaySettings
from gateway.decisions import Decisions
from gateway.keys import Keys
from gateway.retry import Circuit
from gateway.serve import Parts, Service
from gateway.tokens import PromptTokens
from gateway.upstream import Upstream
from headrace.core.ids import EndpointId
from headrace.service.clock import RealClock
from headrace.service.telemetry import Telemetry
from router.router import Router
from tests.integration.gateway.conftest import FakeEngine, Lines
from tests.support.json_values import nested

EXAMPLES = int(os.environ.get("HEADRACE_EXAMPLES", "60"))
"""Bodies come ten to an example: 600 in ``make check``, more by the environment."""

BODIES_PER_EXAMPLE = 10

PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/tokenize")


class Rig:
    """A gateway without sockets of its own, over one engine that answers whatever reaches it."""

    def __init__(self) -> None:
        settings = GatewaySettings.model_validate({"limits": {"body_bytes": 200_000}})
        registry, clock = CollectorRegistry(), RealClock()
        telemetry, keys = Telemetry(registry), Keys(None)
        self.router, self.lines = Router("least-requests"), Lines()
        self.admission = Admission(settings.limits, keys)
        self.accounts = Accounts(telemetry, self.lines)
        self.upstream = Upstream(settings.upstream, clock, telemetry)
        circuit = Circuit(first_s=1.0, most_s=1.0)
        decisions = Decisions(100, 1 << 20, policy="least-requests", seed=0)
        parts = Parts(
            self.router,
            self.upstream,
            self.admission,
            self.accounts,
            circuit,
            telemetry,
            clock,
            decisions,
            PromptTokens(settings.tokens, telemetry),
        )
        cold = cold_app(self.router, keys, registry)
        self.app = Gateway(Service(settings, parts), cold)
        self.engine = FakeEngine("e")
        self.asked = 0

    async def start(self) -> None:
        await self.engine.start()
        self.router.set_endpoints([self.engine.view])

    async def stop(self) -> None:
        self.upstream.close()
        await self.engine.stop()
        await asyncio.sleep(0.01)

    async def ask(self, path: str, body: bytes) -> tuple[int, dict[bytes, bytes], bytes]:
        """Send one request and return its status, headers and body."""
        sent: list[dict[str, Any]] = []
        over = asyncio.get_running_loop().create_future()
        coming = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if coming:
                return coming.pop()
            await over
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "headers": [(b"content-type", b"application/json")],
        }
        self.asked += 1
        async with asyncio.timeout(10):
            await self.app(scope, receive, send)
        over.cancel()
        start, *pieces = sent
        assert not pieces[-1]["more_body"]
        return start["status"], dict(start["headers"]), b"".join(p["body"] for p in pieces)

    def check(self) -> None:
        """Assert that nothing is left behind and that every request had one outcome."""
        assert self.accounts.closed == self.asked == len(self.lines.rows)
        assert (self.admission.inflight, self.admission.held_bytes) == (0, 0)
        assert self.router.inflight(EndpointId("e")) == 0
        self.router.check()


@pytest.fixture(scope="module")
def rig() -> Iterator[tuple[asyncio.Runner, Rig]]:
    with asyncio.Runner() as runner:

        async def make() -> Rig:
            rig = Rig()
            await rig.start()
            return rig

        rig = runner.run(make())
        yield runner, rig
        runner.run(rig.stop())


def judge(path: str, body: bytes, status: int, headers: dict[bytes, bytes], reply: bytes) -> None:
    if status == 200:
        value = json.loads(body)
        assert value["model"] == "m"
        return
    assert 400 <= status < 500, (status, body, reply)
    assert headers[b"content-type"] == b"application/json"
    error = json.loads(reply)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert error["type"] == "invalid_request_error"
    assert "Traceback" not in error["message"]
    assert path


FIELDS = (
    *("prompt", "messages", "input", "max_tokens", "max_completion_tokens", "n"),
    *("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "stop", "stream"),
    *("stream_options", "priority", "user", "prompt_cache_key", "cache_salt", "tools", "role"),
    *("content", "type", "text", "image_url", "tool_calls", "include_usage", "custom"),
)
numbers = (
    st.integers(-3, 40)
    | st.sampled_from([2**31, 2**63, -(2**63) - 1, 10**400, 1e308, -0.5, 0.5, 2.5])
    | st.floats()
)
scalars = (
    st.none()
    | st.booleans()
    | numbers
    | st.text(max_size=12)
    | st.sampled_from(["m", "", "\ud800"])
)
values = nested(scalars, FIELDS)
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "tool", "?", "", 3])},
        optional={"content": values, "tool_calls": values},
    ),
    max_size=3,
)
likely = {
    "prompt": st.text(max_size=400) | st.lists(st.integers(-1, 2**33), max_size=80),
    "input": st.text(max_size=40) | st.lists(st.text(max_size=5), max_size=3),
    "messages": messages,
    "stream": st.booleans(),
    "stream_options": st.none() | st.fixed_dictionaries({}, optional={"include_usage": scalars}),
    "max_tokens": numbers,
    "temperature": numbers,
    "n": numbers,
}
objects = st.fixed_dictionaries(
    {"model": st.sampled_from(["m", "m", "m", "m", "nope", ""])},
    optional={**likely, **{field: values for field in FIELDS if field not in likely}},
)
spacing = st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t: ")])
encoded = st.builds(
    lambda value, marks, ascii_only: json.dumps(
        value, separators=marks, ensure_ascii=ascii_only
    ).encode("utf-8", "surrogatepass"),
    objects | values,
    spacing,
    st.booleans(),
)


def spoiled(body: bytes, at: int, junk: bytes) -> bytes:
    at %= len(body) + 1
    return body[:at] + junk + body[at + len(junk) :]


twice = st.builds(
    lambda body, more: body[:-1] + b"," + more[1:] if len(body) > 2 and len(more) > 2 else body,
    objects.map(lambda value: json.dumps(value).encode()),
    objects.map(lambda value: json.dumps(value).encode()),
)
bodies = (
    encoded
    | twice
    | st.binary(max_size=60)
    | st.builds(spoiled, encoded, st.integers(0, 10_000), st.binary(min_size=1, max_size=3))
)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    requests=st.lists(
        st.tuples(st.sampled_from(PATHS), bodies),
        min_size=BODIES_PER_EXAMPLE,
        max_size=BODIES_PER_EXAMPLE,
    )
)
def test_a_bad_body_is_the_clients_fault_and_has_one_outcome(
    rig: tuple[asyncio.Runner, Rig], requests: list[tuple[str, bytes]]
) -> None:
    runner, gateway = rig

    async def all_of_them() -> list[tuple[int, dict[bytes, bytes], bytes]]:
        return await asyncio.gather(*(gateway.ask(path, body) for path, body in requests))

    for (path, body), answer in zip(requests, runner.run(all_of_them()), strict=True):
        judge(path, body, *answer)
    gateway.check()


DEEP = b'{"model":"m","messages":[{"role":"user","content":"x"}],"custom":' + b"[" * 50_000

AWKWARD = [
    b"",
    b" ",
    b"null",
    b"[]",
    b'"m"',
    b"{",
    b"\xff\xfe",
    b'\xef\xbb\xbf{"model":"m"}',
    b'{"model":"m","messages":[]}',
    b'{"model":"m","messages":[{"role":"user","content":NaN}]}',
    b'{"model":"m","messages":[{"role":"user","content":"x"}],"temperature":NaN}',
    b'{"model":"m","messages":[{"role":"user","content":"x"}],"temperature":-1}',
    b'{"model":"m","messages":[{"role":"user","content":"x"}],"max_tokens":-1}',
    b'{"model":"m","messages":[{"role":"user","content":"x"}],"max_tokens":1e400}',
    b'{"model":"m","messages":[{"role":"user","content":"x"}],"max_tokens":99999999999999999999}',
    b'{"model":"m","messages":[{"role":"user","content":"x"}],"custom":"\xff"}',
    b'{"model":"m","messages":[{"role":"user","content":"\xed\xa0\x80"}]}',
    b'{"model":"m","messages":[{"role":"user","content":"\\ud800"}]}',
    b'{"model":"m","messages":[{"role":"user","content":"x"}],"stream":true,"stream_options":3}',
    DEEP,
    DEEP + b"]" * 50_000 + b"}",
    b'{"a":' * 50_000,
    b'{"model":"' + b"m" * 100_000 + b'"}',
    b"x" * 300_000,
]


@pytest.mark.parametrize("body", AWKWARD, ids=range(len(AWKWARD)))
@pytest.mark.parametrize("path", PATHS)
def test_known_awkward_bodies_are_refused(
    rig: tuple[asyncio.Runner, Rig], path: str, body: bytes
) -> None:
    runner, gateway = rig
    status, headers, reply = runner.run(gateway.ask(path, body))
    assert status != 200
    judge(path, body, status, headers, reply)
    gateway.check()
