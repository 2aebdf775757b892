"""The routes that tell why requests went where they went."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from pydantic import ValidationError

from gateway.app import cold_app
from gateway.config import RoutingSettings
from gateway.decisions import Decisions
from gateway.explaining import ShadowMetrics, add_explaining
from gateway.keys import Keys
from headrace.core.ids import RequestId, TenantId
from headrace.core.outcome import Outcome
from headrace.core.record import Usage
from headrace.service.telemetry import Telemetry
from router.decide import decide, tie_rng
from router.policies.expected_ttft import ExpectedTtft
from router.record import decode, differences, replay
from router.router import Router
from router.shadow import Shadow
from tests.support.recorded import candidate, request

SEEN = (
    candidate("a", cached_tokens=900.0, inflight=3, decoding=3),
    candidate("b", cached_tokens=100.0, inflight=1),
)
KEY = b"sk-1"


class Still:
    """A clock that stands still."""

    def now_s(self) -> float:
        return 100.0

    async def sleep(self, delay_s: float) -> None:
        raise AssertionError


@dataclass(frozen=True, slots=True)
class Reply:
    status_code: int
    content: bytes

    def json(self) -> Any:
        return orjson.loads(self.content)


class Rig:
    def __init__(self, keys: Keys, shadow: Shadow | None = None) -> None:
        self.decisions = Decisions(100, 1 << 20, policy="expected-ttft", seed=0)
        self.shadow = shadow
        self.app = cold_app(Router(), keys, CollectorRegistry())
        add_explaining(self.app, keys, self.decisions, shadow, Still())

    def note(self, client: str, own: str, attempt: int = 0) -> None:
        placed = request(own)
        rng = tie_rng(0, placed.request_id, attempt)
        decision = decide(placed, SEEN, ExpectedTtft(), rng)
        self.decisions.note(client, attempt, placed, decision, 90.0, candidates=SEEN)
        if self.shadow is not None:
            self.shadow.observe(placed, SEEN, decision, attempt)

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> Reply:
        """Ask the application, without a socket."""
        plain, _, query = path.partition("?")
        scope: dict[str, Any] = {
            "type": "http",
            "method": "GET",
            "path": plain,
            "query_string": query.encode(),
            "headers": [(k.encode(), v.encode()) for k, v in (headers or {}).items()],
        }
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        return Reply(sent[0]["status"], b"".join(m.get("body", b"") for m in sent))


@pytest.fixture
def rig() -> Rig:
    return Rig(Keys(None), Shadow("least-requests", 0))


async def test_a_decision_is_answered_whole_and_can_be_made_again_from_the_answer(rig: Rig) -> None:
    rig.note("mine", "own-1")
    rig.note("mine", "own-1", attempt=1)
    rig.decisions.ended(RequestId("own-1"), Outcome.SERVED, 0.5, Usage(1_000, 3, 896))
    reply = await rig.get("/headrace/v1/decisions/mine")
    assert reply.status_code == 200
    assert reply.json()["object"] == "headrace.decisions"
    first, second = decode(reply.content)
    assert [first, second] == rig.decisions.of("mine")
    assert (first.attempt, second.attempt, second.candidates) == (0, 1, SEEN)
    assert differences(second, replay(second)) == []


async def test_the_newest_decisions_are_listed_in_short(rig: Rig) -> None:
    for i in range(3):
        rig.note(f"r{i}", f"own-{i}")
    rig.decisions.ended(RequestId("own-2"), Outcome.SERVED, 0.5, Usage(1_000, 3, 896))
    answer: dict[str, Any] = (await rig.get("/headrace/v1/decisions?limit=2")).json()
    assert [row["request_id"] for row in answer["data"]] == ["r2", "r1"]
    assert (answer["object"], answer["kept"]) == ("list", 3)
    assert answer["kept_bytes"] == rig.decisions.size_bytes
    ended, flying = answer["data"]
    assert (ended["outcome"], ended["ttft_s"], ended["engine_cached_tokens"]) == (
        "served",
        0.5,
        896,
    )
    assert (flying["outcome"], flying["ttft_s"], flying["engine_cached_tokens"]) == (None,) * 3
    assert (ended["endpoint"], ended["cached_tokens"], ended["age_s"]) == ("a", 900.0, 10.0)
    assert (ended["candidates"], ended["unit"], ended["prompt_tokens"]) == (2, "ms", 1_000)


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/headrace/v1/decisions/nobody", 404, "no decision is kept"),
        ("/headrace/v1/decisions/" + "x" * 200, 400, "128"),
        ("/headrace/v1/decisions?limit=0", 400, "greater than or equal to 1"),
        ("/headrace/v1/decisions?limit=many", 400, "integer"),
        ("/headrace/v1/decisions?limit=100000", 400, "1000"),
    ],
)
async def test_what_cannot_be_answered_is_refused_in_openais_shape(
    rig: Rig, path: str, status: int, words: str
) -> None:
    reply = await rig.get(path)
    assert reply.status_code == status
    error = reply.json()["error"]
    assert words in error["message"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == ("limit" if "limit" in path else error["param"])


async def test_a_shadow_is_reported_and_its_absence_said(rig: Rig) -> None:
    rig.note("r", "own")
    answer = (await rig.get("/headrace/v1/shadow")).json()
    shadow = answer["shadow"]
    assert (shadow["policy"], shadow["agreed"], shadow["disagreed"]) == ("least-requests", 0, 1)
    assert shadow["latest"][0]["theirs"] == "b"
    reply = await Rig(Keys(None)).get("/headrace/v1/shadow")
    assert reply.status_code == 404
    assert "gateway.routing.shadow" in reply.json()["error"]["message"]


@pytest.mark.parametrize("path", ["decisions", "decisions/r", "shadow"])
async def test_the_routes_want_the_key_that_the_api_wants(path: str) -> None:
    digest = hashlib.sha256(KEY).hexdigest().encode()
    rig = Rig(Keys({digest: TenantId("t")}), Shadow("random", 0))
    rig.note("r", "own")
    assert (await rig.get(f"/headrace/v1/{path}")).status_code == 401
    good = {"authorization": f"Bearer {KEY.decode()}"}
    assert (await rig.get(f"/headrace/v1/{path}", good)).status_code == 200


async def test_the_routes_are_described_with_every_fact_of_a_candidate(rig: Rig) -> None:
    schema = orjson.loads((await rig.get("/openapi.json")).content)
    assert {
        "/headrace/v1/decisions",
        "/headrace/v1/decisions/{request_id}",
        "/headrace/v1/shadow",
    } <= set(schema["paths"])
    facts = schema["components"]["schemas"]["Candidate"]["properties"]
    assert set(facts) == set(type(SEEN[0]).__dataclass_fields__)


def test_what_the_shadow_counted_becomes_metrics(rig: Rig) -> None:
    registry = CollectorRegistry()
    assert rig.shadow is not None
    metrics = ShadowMetrics(rig.shadow, Telemetry(registry))
    rig.note("r", "own")
    metrics.update()
    metrics.update()  # counts are taken over, not added
    text = generate_latest(registry).decode()
    for line in (
        'headrace_shadow_decisions_total{result="agreed"} 0.0',
        'headrace_shadow_decisions_total{result="disagreed"} 1.0',
        f"headrace_shadow_cost_difference {rig.shadow.cost_difference}",
        "headrace_shadow_prompt_tokens_total 1000.0",
        'headrace_shadow_cached_tokens_total{choice="ours"} 900.0',
        'headrace_shadow_cached_tokens_total{choice="shadow"} 100.0',
    ):
        assert line in text.splitlines()


def test_a_shadow_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(ValidationError, match="round-robin"):
        RoutingSettings(shadow="fastest")
    assert RoutingSettings(shadow="random").shadow == "random"
