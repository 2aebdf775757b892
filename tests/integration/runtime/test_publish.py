"""A fleet's list of endpoints on a Unix socket, told and followed."""

from __future__ import annotations

import asyncio
import socket
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from headrace.core.endpoint import EndpointView, EngineLoad, Health, Speed
from headrace.core.errors import ConfigError
from headrace.core.ids import EndpointId, ModelName
from headrace.runtime.discovery import ListSource
from headrace.runtime.listing import read_listing, write_listing
from headrace.runtime.publish import Publisher, PublishLimits
from headrace.runtime.socket_source import FollowLimits, SocketSource
from headrace.service.clock import RealClock

LIMIT_S = 10.0
QUICK = FollowLimits(silent_s=0.3, retry_first_s=0.01, retry_most_s=0.05)


def view(name: str) -> EndpointView:
    return EndpointView(EndpointId(name), f"http://{name}:1", ())


@asynccontextmanager
async def told(
    path: Path, source: ListSource, limits: PublishLimits | None = None
) -> AsyncIterator[Publisher]:
    publisher = Publisher(path, source, limits or PublishLimits(heartbeat_s=0.05))
    publisher.open()
    task = asyncio.create_task(publisher.run())
    try:
        async with asyncio.timeout(LIMIT_S):
            yield publisher
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        publisher.close()


@asynccontextmanager
async def followed(path: Path) -> AsyncIterator[SocketSource]:
    source = SocketSource(path, RealClock(), Random(0), QUICK)
    task = asyncio.create_task(source.run())
    try:
        async with asyncio.timeout(LIMIT_S):
            yield source
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 -- not all of it is announced
        await asyncio.sleep(0.005)


async def test_all_who_follow_have_the_list_as_it_changes(tmp_path: Path) -> None:
    path, fleet = tmp_path / "s", ListSource()
    fleet.put(view("a"))
    async with told(path, fleet), followed(path) as one, followed(path) as two:
        for each in (one, two):
            await each.synced()
            assert each.endpoints() == [view("a")]
        fleet.put(view("b"))
        fleet.put(replace(view("a"), health=Health.DRAINING))
        for each in (one, two):
            await until(lambda each=each: len(each.endpoints()) == 2)  # type: ignore[misc]
            assert [v.health for v in each.endpoints()] == [Health.DRAINING, Health.READY]
    assert not path.exists()


async def test_it_is_told_at_once_upon_change_and_as_a_heartbeat(tmp_path: Path) -> None:
    path, fleet = tmp_path / "s", ListSource()
    async with told(path, fleet, PublishLimits(heartbeat_s=0.05)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        reader, writer = await asyncio.open_unix_connection(path)
        assert read_listing(await reader.readline()) == []
        assert read_listing(await reader.readline()) == [], "a heartbeat"
        fleet.put(view("a"))
        line = b""
        while b"a" not in line.replace(b"endpoints", b""):
            line = await reader.readline()
        assert line == write_listing([view("a")])
        writer.close()


async def test_what_each_finds_out_by_itself_is_no_news(tmp_path: Path) -> None:
    path, fleet = tmp_path / "s", ListSource()
    fleet.put(view("a"))
    async with told(path, fleet, PublishLimits(heartbeat_s=60.0)):
        reader, writer = await asyncio.open_unix_connection(path)
        await reader.readline()
        fleet.put(replace(view("a"), load=EngineLoad(1, 2, 0.5, 3.0), health=Health.DOWN))
        await asyncio.sleep(0.02)
        fleet.put(view("b"))
        assert read_listing(await reader.readline()) == [view("a"), view("b")]
        writer.close()


async def test_what_an_engine_says_of_itself_makes_no_list_that_nobody_reads(
    tmp_path: Path,
) -> None:
    path, fleet = tmp_path / "s", ListSource()
    adapters = tuple(ModelName(f"adapter-{index}") for index in range(2_000))
    fleet.put(replace(view("a"), models=(ModelName("m"), *adapters), speed=Speed(kv_tokens=0)))
    async with told(path, fleet), followed(path) as source:
        await source.synced()
        (seen,) = source.endpoints()
        assert seen.models == ("m",)


async def test_a_slow_reader_misses_versions_and_gets_the_newest(tmp_path: Path) -> None:
    path, fleet = tmp_path / "s", ListSource()
    limits = PublishLimits(heartbeat_s=60.0)
    versions = 2_000
    async with told(path, fleet, limits):
        reader, writer = await asyncio.open_unix_connection(path, limit=1 << 16)
        for version in range(versions):
            names = {f"{index}": str(version) for index in range(16)}
            fleet.put(replace(view("a"), labels=tuple(sorted(names.items()))))
            await asyncio.sleep(0)
        lines = 0
        newest = ""
        while newest != str(versions - 1):
            listed = read_listing(await reader.readline())
            lines += 1
            newest = listed[0].labels[0][1] if listed else ""
        assert lines < versions / 2
        writer.close()


async def test_a_reader_that_takes_nothing_is_let_go(tmp_path: Path) -> None:
    path, fleet = tmp_path / "s", ListSource()
    for index in range(500):
        fleet.put(view(f"{index:0200}"))
    limits = PublishLimits(heartbeat_s=0.001, stalled_s=0.1)
    async with told(path, fleet, limits):
        with socket.socket(socket.AF_UNIX) as stuck:
            stuck.setblocking(False)
            stuck.connect(str(path))
            await asyncio.sleep(0.5)
            got = b""
            while piece := await asyncio.get_running_loop().sock_recv(stuck, 1 << 16):
                got += piece
        assert got, "what fitted into the socket, and then its end"


async def test_more_readers_than_allowed_are_turned_away(tmp_path: Path) -> None:
    path, fleet = tmp_path / "s", ListSource()
    async with told(path, fleet, PublishLimits(readers=1, heartbeat_s=0.02)):
        reader, writer = await asyncio.open_unix_connection(path)
        assert await reader.readline()
        extra, other = await asyncio.open_unix_connection(path)
        assert await extra.read() == b""
        other.close()
        writer.close()
        async with followed(path) as source:
            await source.synced()


async def test_a_dead_socket_is_replaced_and_a_living_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with told(path, ListSource()):
        second = Publisher(path, ListSource())
        with pytest.raises(
            ConfigError, match=r"publish\.socket: .*: another process listens there"
        ):
            second.open()
        second.close()
        assert path.is_socket()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("taken", "exists and is no socket"),
        ("absent/s", "No such file or directory"),
        ("x" * 120, "longer than 107 bytes"),
    ],
)
def test_a_path_that_cannot_be_had_is_a_readable_error(tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(ConfigError, match=why):
        Publisher(tmp_path / name, ListSource()).open()
    assert (tmp_path / "taken").read_text() == "mine"


async def test_of_a_fleet_without_endpoints_the_last_stay_listed_as_down(tmp_path: Path) -> None:
    path, fleet = tmp_path / "s", ListSource()
    fleet.put(view("a"))
    fleet.put(view("b"))
    async with told(path, fleet), followed(path) as source:
        await until(lambda: len(source.endpoints()) == 2)
        fleet.remove(EndpointId("a"))
        await until(lambda: source.endpoints() == [view("b")])
        fleet.remove(EndpointId("b"))
        await until(lambda: source.endpoints() == [replace(view("b"), health=Health.DOWN)])
        fleet.put(view("c"))
        await until(lambda: source.endpoints() == [view("c")])


async def test_the_list_stays_while_the_fleet_is_away_and_is_replaced_by_the_next_ones(
    tmp_path: Path,
) -> None:
    path, fleet = tmp_path / "s", ListSource()
    async with followed(path) as source:
        await until(lambda: source.away)
        fleet.put(view("a"))
        async with told(path, fleet):
            await source.synced()
            assert not source.away
        await until(lambda: source.away)
        assert source.endpoints() == [view("a")]
        again = ListSource()
        again.put(view("b"))
        async with told(path, again):
            await until(lambda: source.endpoints() == [view("b")])
            assert not source.away


async def test_a_teller_that_is_silent_is_away(tmp_path: Path) -> None:
    path, fleet = tmp_path / "s", ListSource()
    fleet.put(view("a"))
    async with told(path, fleet, PublishLimits(heartbeat_s=60.0)), followed(path) as source:
        await source.synced()
        await until(lambda: source.away)
        assert source.endpoints() == [view("a")]
        await until(lambda: not source.away)


async def test_what_cannot_be_read_leaves_the_last_list(tmp_path: Path) -> None:
    path = tmp_path / "s"

    def bad(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(write_listing([view("a")]) + b'{"endpoints": [{"url": "x"}]}\n')
        writer.close()

    server = await asyncio.start_unix_server(bad, path)
    async with followed(path) as source:
        await until(lambda: "endpoints[0].url" in source.problem)
        assert source.away
        assert source.endpoints() == [view("a")]
    server.close()
