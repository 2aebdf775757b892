from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from controller.fleets.config import FleetSettings
from controller.fleets.local import LocalFleet, trim_log
from controller.fleets.protocol import FleetFailed
from controller.fleets.unit import UnitState
from headrace.core.endpoint import EndpointView, Health
from headrace.core.errors import ConfigError
from headrace.core.ids import EndpointId

Make = Callable[..., FleetSettings]


async def until(fleet: LocalFleet, holds: Callable[[list[EndpointView]], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds(fleet.source.endpoints()):
            await fleet.source.changed()


async def ended(pid: int) -> None:
    """Wait until a process is gone; its parent is not us, so the kernel has to be asked."""
    gone, _ = await asyncio.to_thread(psutil.wait_procs, processes(pid), timeout=10)
    assert not [each for each in processes(pid) if each.status() != psutil.STATUS_ZOMBIE], gone


def processes(pid: int) -> list[psutil.Process]:
    return [psutil.Process(pid)] if psutil.pid_exists(pid) else []


def grandchild(fleet: LocalFleet) -> int:
    found = re.search(r"grandchild (\d+)", fleet.status()[0].log.read_text())
    assert found
    return int(found.group(1))


def pids(fleet: LocalFleet) -> list[int]:
    return [status.pid for status in fleet.status() if status.pid is not None]


async def test_a_fleet_becomes_ready_says_what_it_serves_and_leaves_nothing(settings: Make) -> None:
    fleet = LocalFleet(settings(replicas=2))
    assert fleet.source.endpoints() == []
    async with fleet, asyncio.timeout(20):
        await fleet.wait_ready()
        views = fleet.source.endpoints()
        running = pids(fleet)
        assert [view.endpoint_id for view in views] == ["vllm-0", "vllm-1"]
        for view in views:
            assert view.health is Health.READY
            assert view.models == ("model",)
            assert view.speed.kv_tokens == 3_200
            assert view.load is not None
            assert view.load.kv_used_ratio == 0.25
        assert [os.getpgid(pid) for pid in running] == running
    assert fleet.source.endpoints() == []
    for pid in running:
        await ended(pid)


async def test_a_crashed_engine_comes_back_under_another_id(settings: Make) -> None:
    async with LocalFleet(settings(replicas=2)) as fleet, asyncio.timeout(20):
        await fleet.wait_ready()
        os.kill(pids(fleet)[0], signal.SIGKILL)
        await until(fleet, lambda views: all(view.endpoint_id != "vllm-0" for view in views))
        await until(
            fleet,
            lambda views: any(
                view.endpoint_id == "vllm-0.1" and view.health is Health.READY for view in views
            ),
        )
        assert [status.crashes for status in fleet.status()] == [1, 0]
        assert "signal 9" in fleet.status()[0].why


async def test_what_a_killed_engine_left_behind_is_killed_too(settings: Make) -> None:
    async with LocalFleet(settings("grandchild")) as fleet, asyncio.timeout(20):
        await fleet.wait_ready()
        child = grandchild(fleet)
        os.kill(pids(fleet)[0], signal.SIGKILL)
        await ended(child)


async def test_an_engine_that_cannot_start_is_given_up_with_its_last_words(settings: Make) -> None:
    async with LocalFleet(settings("exit")) as fleet, asyncio.timeout(20):
        with pytest.raises(FleetFailed, match="unrecognized arguments"):
            await fleet.wait_ready()
        with pytest.raises(FleetFailed):
            await fleet.wait_failed()
        assert fleet.status()[0].state is UnitState.FAILED
        assert fleet.status()[0].crashes == 2


@pytest.mark.parametrize("fake", ["mute", "no-generate"])
async def test_an_engine_that_never_generates_is_never_ready_and_is_killed(
    settings: Make, fake: str
) -> None:
    one_try = {"timeouts.start_s": 1.5, "restart.limit_before_ready": 1}
    async with LocalFleet(settings(fake, **one_try)) as fleet, asyncio.timeout(20):
        await until(fleet, lambda views: len(views) == 1)
        assert fleet.source.endpoints()[0].health is Health.DOWN
        (pid,) = pids(fleet)
        with pytest.raises(FleetFailed, match=r"not ready within 1\.5 s"):
            await fleet.wait_ready()
        await ended(pid)


async def test_an_engine_that_hangs_is_killed_and_replaced(settings: Make) -> None:
    quick = {"timeouts.unready_s": 0.3, "probe.timeout_s": 0.1}
    async with LocalFleet(settings(**quick)) as fleet, asyncio.timeout(20):
        await fleet.wait_ready()
        (pid,) = pids(fleet)
        os.kill(pid, signal.SIGSTOP)
        await until(fleet, lambda views: any(view.health is Health.DOWN for view in views))
        await until(
            fleet,
            lambda views: any(
                view.endpoint_id == "vllm-0.1" and view.health is Health.READY for view in views
            ),
        )
        await ended(pid)
        assert "it hung" in fleet.status()[0].why


async def test_an_engine_is_stopped_only_when_nothing_is_in_flight_there(settings: Make) -> None:
    inflight = {EndpointId("vllm-0"): 1}
    fleet = LocalFleet(settings(), inflight=lambda endpoint_id: inflight[endpoint_id])
    await fleet.start()
    await asyncio.wait_for(fleet.wait_ready(), 20)
    (pid,) = pids(fleet)
    stopping = asyncio.create_task(fleet.stop())
    await until(fleet, lambda views: views[0].health is Health.DRAINING)
    assert psutil.pid_exists(pid)
    assert not stopping.done()
    inflight[EndpointId("vllm-0")] = 0
    await asyncio.wait_for(stopping, 20)
    await ended(pid)


async def test_draining_ends_at_its_limit(settings: Make) -> None:
    fleet = LocalFleet(settings(**{"timeouts.drain_s": 0.2}), inflight=lambda _: 1)
    await fleet.start()
    await asyncio.wait_for(fleet.wait_ready(), 20)
    await asyncio.wait_for(fleet.stop(), 5)


async def test_an_engine_deaf_to_sigterm_is_killed_with_all_its_group(settings: Make) -> None:
    async with LocalFleet(settings("no-term,grandchild")) as fleet, asyncio.timeout(20):
        await fleet.wait_ready()
        (pid,), child = pids(fleet), grandchild(fleet)
    await ended(pid)
    await ended(child)


async def test_engines_whose_parent_was_killed_die_and_are_started_again(settings: Make) -> None:
    async with LocalFleet(settings("grandchild")) as fleet, asyncio.timeout(20):
        await fleet.wait_ready()
        (pid,), child = pids(fleet), grandchild(fleet)
        psutil.Process(pid).parent().kill()  # type: ignore[union-attr]
        await ended(pid)
        await ended(child)
        await until(
            fleet,
            lambda views: [view.endpoint_id for view in views if _is_ready(view)] == ["vllm-0.1"],
        )


async def test_an_engine_that_is_not_installed_stops_the_start(settings: Make) -> None:
    fleet = LocalFleet(settings(python="absent/python"))
    with pytest.raises(ConfigError, match=r"fleet\.python"):
        await fleet.start()
    await fleet.stop()


async def test_a_temporary_state_folder_is_removed_unless_something_crashed(settings: Make) -> None:
    async with LocalFleet(settings(state_dir=None)) as fleet, asyncio.timeout(20):
        await fleet.wait_ready()
        folder = fleet.status()[0].log.parent
        assert folder.exists()
    assert not folder.exists()


def test_a_long_log_keeps_its_last_part_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "engine.log"
    with path.open("ab", buffering=0) as writer:
        writer.write(b"x" * 1_000 + b"end")
        trim_log(path, 100)
        writer.write(b" more")
    assert path.read_bytes() == b"x" * 22 + b"end more"
    trim_log(path, 100)
    assert path.stat().st_size == 30
    trim_log(tmp_path / "absent", 100)


def _is_ready(view: EndpointView) -> bool:
    return view.health is Health.READY
