"""The subscriber against the real publisher: late starts, losses, restarts, replays that fail."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

from headrace.core.endpoint import BlockScheme, KvEventSource
from headrace.core.ids import EndpointId
from kvcache.index import Held
from kvcache.stream import StreamLimits, StreamState
from tests.support.kv_events import (
    BLOCK_TOKENS,
    QUICK,
    Eventually,
    StartEngine,
    StartWatch,
    Watch,
    names,
    running,
)

A = EndpointId("a")

SETTLING = replace(QUICK, check_up_s=60.0)
"""One question soon after connecting, and then none: losses show only in what comes after."""


def settled(watch: Watch) -> bool:
    status = watch.status()
    return status.counters.replays >= 2 and status.state is StreamState.SYNCED


async def test_a_subscriber_that_starts_late_is_warm(
    start_engine: StartEngine, start_watch: StartWatch, eventually: Eventually
) -> None:
    engine = await start_engine()
    engine.store(3, 100)
    engine.store(2, 500)
    engine.evict(500, 2)
    watch = await start_watch()
    watch.follow(a=engine.source())
    await eventually(lambda: watch.held() == engine.held)
    assert watch.index.scheme_of(A) == BlockScheme(BLOCK_TOKENS)
    prompt = {BlockScheme(BLOCK_TOKENS): names(list(range(100, 100 + 20)))}
    assert watch.index.longest_prefix(prompt, 0.0) == {A: Held(3, 3)}


async def test_what_is_published_later_arrives_over_ipc_too(
    start_engine: StartEngine, start_watch: StartWatch, eventually: Eventually, tmp_path: Path
) -> None:
    engine = await start_engine(
        KvEventSource(f"ipc://{tmp_path}/events", f"ipc://{tmp_path}/replay")
    )
    watch = await start_watch()
    watch.follow(a=engine.source())
    await eventually(watch.connected)
    for first in range(0, 400, 40):
        engine.store(5, first)
    engine.evict(40, 5)
    await eventually(lambda: watch.held() == engine.held)
    engine.clear()
    await eventually(lambda: not watch.held())


async def test_a_batch_lost_on_the_way_is_replayed(
    start_engine: StartEngine, start_watch: StartWatch, eventually: Eventually
) -> None:
    engine = await start_engine()
    watch = await start_watch(SETTLING)
    watch.follow(a=engine.source())
    engine.store(1, 0)
    await eventually(lambda: watch.held() == engine.held)
    await eventually(lambda: settled(watch))
    engine.store(1, 100, drop=True)
    engine.evict(0, 1, drop=True)
    engine.store(1, 200)
    await eventually(lambda: watch.held() == engine.held)
    counters = watch.status().counters
    assert (counters.gaps, counters.resyncs, counters.restarts) == (1, 0, 0)


async def test_a_last_batch_that_was_lost_is_asked_for(
    start_engine: StartEngine, start_watch: StartWatch, eventually: Eventually
) -> None:
    engine = await start_engine()
    watch = await start_watch()
    watch.follow(a=engine.source())
    engine.store(1, 0)
    await eventually(lambda: watch.held() == engine.held)
    engine.evict(0, 1, drop=True)
    await eventually(lambda: not watch.held())
    assert watch.status().counters.gaps == 0


async def test_batches_out_of_order_are_put_in_order(
    start_engine: StartEngine, start_watch: StartWatch, eventually: Eventually
) -> None:
    engine = await start_engine()
    watch = await start_watch()
    watch.follow(a=engine.source())
    await eventually(watch.connected)
    for first in range(0, 200, 20):
        engine.store(1, first, hold=True)
        engine.evict(first, 1)
    engine.store(2, 900)
    await eventually(lambda: watch.held() == engine.held)
    assert watch.status().counters.resyncs == 0


async def test_a_gap_that_the_engine_cannot_replay_makes_it_claim_less(
    start_engine: StartEngine, start_watch: StartWatch, eventually: Eventually
) -> None:
    engine = await start_engine(buffer_steps=2)
    watch = await start_watch()
    watch.follow(a=engine.source())
    engine.store(1, 0)
    await eventually(lambda: watch.held() == engine.held)
    engine.evict(0, 1, drop=True)
    for first in (100, 200, 300):
        engine.store(1, first, drop=True)
    engine.store(1, 400)
    await eventually(lambda: watch.status().counters.resyncs == 1)
    await eventually(lambda: set(names(list(range(400, 404)))) <= watch.held())
    assert watch.held() < engine.held


async def test_a_new_life_of_an_engine_has_nothing_of_the_old_one(
    start_engine: StartEngine,
    start_watch: StartWatch,
    eventually: Eventually,
    stack: AsyncExitStack,
) -> None:
    first = await start_engine()
    watch = await start_watch(replace(QUICK, lost_after_s=60.0))
    watch.follow(a=first.source())
    for token in (0, 100, 200):
        first.store(1, token)
    await eventually(lambda: watch.held() == first.held)
    source = first.source()
    first.publisher.close()
    second = await start_engine(source)
    for token in (0, 100, 200, 300):  # it counts past the old life before anyone listens
        second.store(2, token + 1000)
    await eventually(lambda: watch.held() == second.held)
    assert watch.status().counters.restarts == 1


async def test_an_engine_that_is_gone_holds_nothing_within_a_second(
    start_engine: StartEngine, start_watch: StartWatch, eventually: Eventually
) -> None:
    engine = await start_engine()
    watch = await start_watch()
    watch.follow(a=engine.source())
    engine.store(3, 0)
    await eventually(lambda: watch.held() == engine.held)
    engine.publisher.close()
    async with asyncio.timeout(1.0):
        await eventually(lambda: not watch.held())
    assert not watch.connected()


async def test_a_replay_that_never_answers_is_given_up_and_made_up_for_later(
    start_engine: StartEngine, start_watch: StartWatch, eventually: Eventually
) -> None:
    engine = await start_engine(replays=False)
    engine.store(1, 0)
    watch = await start_watch()
    watch.follow(a=engine.source())
    await eventually(watch.connected)
    await eventually(lambda: watch.status().counters.failed_replays > 0)
    assert watch.held() <= engine.held
    async with running(engine.publisher.serve_replays()):
        await eventually(lambda: watch.held() == engine.held)


async def test_what_comes_during_a_replay_is_bounded(
    start_engine: StartEngine, start_watch: StartWatch, eventually: Eventually
) -> None:
    engine = await start_engine(replays=False)
    limits = StreamLimits(held_batches=4)
    watch = await start_watch(replace(QUICK, replay_timeout_s=60.0, stream=limits))
    watch.follow(a=engine.source())
    await eventually(watch.connected)
    await eventually(lambda: watch.status().state is StreamState.REPLAYING)
    for first in range(0, 100, 10):
        engine.store(1, first)
    await eventually(lambda: watch.status().counters.failed_replays == 1)
    await eventually(lambda: bool(watch.held()))
    assert watch.held() <= engine.held


async def test_an_engine_without_replay_is_followed_from_now_on(
    start_engine: StartEngine, start_watch: StartWatch, eventually: Eventually
) -> None:
    engine = await start_engine()
    engine.store(1, 0)
    watch = await start_watch()
    watch.follow(a=KvEventSource(engine.source().events))
    await eventually(watch.connected)

    def heard() -> bool:  # until the subscription is there, what is published is lost
        engine.store(1, 100)
        return bool(watch.held())

    await eventually(heard)
    assert watch.held() == set(names(list(range(100, 104))))


async def test_only_endpoints_that_are_wanted_and_publish_are_followed(
    start_engine: StartEngine, start_watch: StartWatch, eventually: Eventually
) -> None:
    one, two = await start_engine(), await start_engine()
    one.store(1, 0)
    two.store(2, 50)
    watch = await start_watch()
    watch.follow(a=one.source(), b=two.source(), c=None)
    await eventually(lambda: watch.held("a") == one.held and watch.held("b") == two.held)
    watch.follow(b=two.source(), c=None)
    await eventually(lambda: sorted(watch.subscriber.status()) == ["b"])
    assert not watch.held("a")
    assert watch.index.scheme_of(A) is None
    watch.follow(b=one.source())  # the same name at another address
    await eventually(lambda: watch.held("b") == one.held)
    watch.index.check()


async def test_an_address_that_cannot_be_used_does_not_disturb_the_others(
    start_engine: StartEngine, start_watch: StartWatch, eventually: Eventually
) -> None:
    engine = await start_engine()
    engine.store(1, 0)
    watch = await start_watch()
    watch.follow(
        a=engine.source(), b=KvEventSource("nonsense://x"), c=KvEventSource("tcp://127.0.0.1:1")
    )
    await eventually(lambda: watch.held() == engine.held)
    assert not watch.connected("b")


async def test_bytes_that_are_no_events_lose_what_was_known_and_nothing_more(
    start_engine: StartEngine, start_watch: StartWatch, eventually: Eventually
) -> None:
    engine = await start_engine()
    watch = await start_watch(SETTLING)
    watch.follow(a=engine.source())
    engine.store(1, 0)
    await eventually(lambda: watch.held() == engine.held)
    await eventually(lambda: settled(watch))
    engine.publisher._send(1, b"\xc1 not msgpack")
    await eventually(lambda: watch.status().counters.malformed == 1)
    assert not watch.held()


async def test_too_many_endpoints_are_not_followed(
    start_engine: StartEngine, start_watch: StartWatch, eventually: Eventually
) -> None:
    engine = await start_engine()
    watch = await start_watch(replace(QUICK, limit_endpoints=2))
    watch.follow(**dict.fromkeys("cab", engine.source()))
    await eventually(lambda: len(watch.subscriber.status()) == 2)
    assert sorted(watch.subscriber.status()) == ["a", "b"]


async def test_ending_the_work_leaves_no_task_and_no_claim(
    start_engine: StartEngine, eventually: Eventually
) -> None:
    engine = await start_engine()
    engine.store(1, 0)
    before = asyncio.all_tasks()
    watch = Watch(QUICK)
    async with running(watch.subscriber.run()):
        watch.follow(a=engine.source())
        await eventually(lambda: watch.held() == engine.held)
    assert asyncio.all_tasks() == before
    assert not watch.held()
    assert not watch.subscriber.status()


async def test_the_loop_is_not_kept_busy_when_nothing_happens(
    start_engine: StartEngine, start_watch: StartWatch, eventually: Eventually
) -> None:
    engine = await start_engine()
    watch = await start_watch(SETTLING)
    watch.follow(a=engine.source())
    engine.store(1, 0)
    await eventually(lambda: watch.held() == engine.held)
    await eventually(lambda: settled(watch))
    follower = watch.subscriber._followers[A]
    turns = 0
    keep_time = follower._keep_time

    def counted() -> None:
        nonlocal turns
        turns += 1
        keep_time()

    follower._keep_time = counted  # type: ignore[method-assign]
    await asyncio.sleep(0.3)
    assert turns <= 3
