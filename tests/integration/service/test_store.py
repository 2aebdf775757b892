"""What every store promises, tried on the memory store and on a real Redis server."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from headrace.service.store import Store
from tests.integration.service.conftest import LIMIT_S

Stores = tuple[Store, Store]


class Inbox:
    """Keeps what is delivered, and lets a test wait for so many."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self._more = asyncio.Event()

    def deliver(self, payload: bytes) -> None:
        self.got.append(payload)
        self._more.set()

    async def count(self, number: int) -> list[bytes]:
        async with asyncio.timeout(LIMIT_S):
            while len(self.got) < number:
                self._more.clear()
                await self._more.wait()
        return self.got


async def inbox(store: Store, channel: str) -> Inbox:
    made = Inbox()
    store.subscribe(channel, made.deliver)
    async with asyncio.timeout(LIMIT_S):
        await store.ready()
    return made


async def gone(store: Store, key: str) -> None:
    async with asyncio.timeout(LIMIT_S):
        while await store.get(key) is not None:  # noqa: ASYNC110 -- no store tells of an expiry
            await asyncio.sleep(0.005)


@pytest.fixture
def name() -> str:
    """A name that no other test uses: the Redis server is shared."""
    return uuid4().hex


async def test_a_message_reaches_every_subscriber_the_sender_too(stores: Stores, name: str) -> None:
    one, two = stores
    own, other = await inbox(one, name), await inbox(two, name)
    one.publish(name, b"hello")
    assert await own.count(1) == [b"hello"]
    assert await other.count(1) == [b"hello"]


async def test_publishing_delivers_nothing_from_within_the_call(stores: Stores, name: str) -> None:
    one, _ = stores
    own = await inbox(one, name)
    one.publish(name, b"later")
    assert own.got == []
    await own.count(1)


async def test_messages_of_one_sender_keep_their_order(stores: Stores, name: str) -> None:
    one, two = stores
    other = await inbox(two, name)
    sent = [b"%d" % number for number in range(500)]
    for payload in sent:
        one.publish(name, payload)
    assert await other.count(500) == sent


async def test_any_bytes_and_long_ones_arrive_as_they_are(stores: Stores, name: str) -> None:
    one, two = stores
    other = await inbox(two, name)
    sent = [b"", b"\r\n$5\r\n", bytes(range(256)), b"\x00" * 3_000_000]
    for payload in sent:
        one.publish(name, payload)
    assert await other.count(4) == sent


async def test_channels_are_apart_and_nothing_is_kept_for_latecomers(
    stores: Stores, name: str
) -> None:
    one, two = stores
    witness = await inbox(one, name)
    one.publish(name, b"before")
    await witness.count(1)
    late, elsewhere = await inbox(two, name), await inbox(two, name + "x")
    one.publish(name, b"after")
    assert await late.count(1) == [b"after"]
    assert elsewhere.got == []


async def test_after_unsubscribing_nothing_more_comes(stores: Stores, name: str) -> None:
    one, two = stores
    leaving, staying = await inbox(two, name), await inbox(two, name)
    two.unsubscribe(name, leaving.deliver)
    two.unsubscribe(name, leaving.deliver)
    one.publish(name, b"x")
    await staying.count(1)
    assert leaving.got == []
    two.unsubscribe(name, staying.deliver)
    again = await inbox(two, name)
    one.publish(name, b"y")
    assert await again.count(1) == [b"y"]
    assert staying.got == [b"x"]


async def test_publishing_to_nobody_is_no_error(stores: Stores, name: str) -> None:
    one, _ = stores
    one.publish(name, b"x")
    assert await one.get(name) is None


async def test_a_value_set_by_one_is_read_by_the_other(stores: Stores, name: str) -> None:
    one, two = stores
    assert await two.get(name) is None
    await one.set(name, b"first", 60.0)
    await one.set(name, b"\x00second", 60.0)
    assert await two.get(name) == b"\x00second"


async def test_a_value_is_gone_when_its_time_is_up(stores: Stores, name: str) -> None:
    one, two = stores
    await one.set(name, b"x", 0.05)
    await one.set(name + "stays", b"x", 60.0)
    await gone(two, name)
    assert await two.scan(name, 10) == [name + "stays"]


async def test_setting_again_gives_a_value_new_time(stores: Stores, name: str) -> None:
    one, two = stores
    await one.set(name, b"x", 0.05)
    await one.set(name, b"y", 60.0)
    await one.set(name + "probe", b"x", 0.06)
    await gone(two, name + "probe")
    assert await two.get(name) == b"y"


async def test_a_scan_finds_keys_by_prefix_taken_literally(stores: Stores, name: str) -> None:
    one, two = stores
    keys = [f"{name}:a", f"{name}:b", f"{name}*c", f"{name}[d"]
    for key in keys:
        await one.set(key, b"x", 60.0)
    assert sorted(await two.scan(name, 10)) == sorted(keys)
    assert sorted(await two.scan(f"{name}:", 10)) == keys[:2]
    assert await two.scan(f"{name}*", 10) == [f"{name}*c"]
    assert await two.scan(f"{name}[", 10) == [f"{name}[d"]
    assert await two.scan(f"{name}?", 10) == []
    assert len(await two.scan(name, 3)) == 3


async def test_a_store_that_runs_is_up(stores: Stores) -> None:
    assert all(store.up for store in stores)
