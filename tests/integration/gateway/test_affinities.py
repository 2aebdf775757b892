"""Which endpoints may serve a request, by what is said of them and what it asks for."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from headrace.core.endpoint import EndpointView
from tests.integration.gateway.conftest import CHAT, LIMIT_S, Bench, Start

LABELS = {"routing": {"labels_header": "X-Labels"}}


async def set_view(bench: Bench, view: EndpointView) -> None:
    """Publish what is known of an endpoint and wait until the gateway knows it."""
    bench.source.put(view)
    async with asyncio.timeout(LIMIT_S):
        while view not in bench.router.endpoints():  # noqa: ASYNC110 -- a few turns of the loop
            await asyncio.sleep(0)


async def test_a_request_goes_where_the_labels_it_asks_for_are(start: Start) -> None:
    bench = await start(engines=3, **LABELS)
    labels = (("zone", "a"), ("tier", "gold"))
    await set_view(bench, replace(bench.engines[1].view, labels=labels))
    for _ in range(6):
        assert (await bench.ask(CHAT, x_labels="tier=gold, zone=a")).status == 200
    assert [len(engine.seen) for engine in bench.engines] == [0, 6, 0]
    assert "x-labels" not in bench.engines[1].seen[0].headers


async def test_labels_that_nobody_carries_get_503_and_say_which(start: Start) -> None:
    bench = await start(engines=1, **LABELS)
    reply = await bench.ask(CHAT, x_labels="zone=b")
    assert reply.status == 503
    assert "zone=b" in str(reply.error["message"])


async def test_labels_of_another_form_get_400_and_the_header_s_name(start: Start) -> None:
    bench = await start(engines=1, **LABELS)
    reply = await bench.ask(CHAT, x_labels="zone")
    assert reply.status == 400
    assert "x-labels" in str(reply.error["message"])


async def test_the_header_has_no_say_unless_it_is_named(start: Start) -> None:
    bench = await start(engines=1)
    assert (await bench.ask(CHAT, x_labels="zone=b")).status == 200


async def test_ranks_behind_one_url_are_told_apart_by_a_header(start: Start) -> None:
    bench = await start(engines=2)
    one, two = bench.engines
    await set_view(bench, replace(one.view, dp_rank=0))
    await set_view(bench, replace(two.view, url=one.view.url, dp_rank=1))
    for _ in range(20):
        assert (await bench.ask(CHAT)).status == 200
    assert {seen.headers["x-data-parallel-rank"] for seen in one.seen} == {"0", "1"}
    assert two.seen == []
    served = await bench.metric("headrace_endpoint_inflight_requests{")
    assert len(served) == 2


async def test_without_ranks_no_header_names_one(start: Start) -> None:
    bench = await start(engines=1)
    await bench.ask(CHAT)
    assert "x-data-parallel-rank" not in bench.engines[0].seen[0].headers
