from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import psutil

from controller.fleets.config import FleetSettings

ROOT = str(Path(__file__).resolve().parents[3])
OWNER = """
import asyncio, sys
from controller.fleets.config import FleetSettings
from controller.fleets.local import LocalFleet

async def main():
    async with LocalFleet(FleetSettings.model_validate_json(sys.argv[1])) as fleet:
        await fleet.wait_ready()
        print("pids", *(status.pid for status in fleet.status()), flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_engines_do_not_outlive_an_owner_that_was_killed(
    settings: Callable[..., FleetSettings], tmp_path: Path
) -> None:
    owner = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        OWNER,
        settings("grandchild", replicas=2).model_dump_json(),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": ROOT, "TMPDIR": str(tmp_path)},
    )
    assert owner.stdout is not None
    async with asyncio.timeout(30):
        while not (line := await owner.stdout.readline()).startswith(b"pids"):
            assert line, "it ended"
    engines = [psutil.Process(int(pid)) for pid in line.split()[1:]]
    assert len(engines) == 2
    left = [each for engine in engines for each in (engine, *engine.children(recursive=True))]
    assert len(left) == 4
    spawner = engines[0].parent()
    assert spawner is not None
    owner.send_signal(signal.SIGKILL)
    await owner.wait()
    gone, alive = await asyncio.to_thread(psutil.wait_procs, [*left, spawner], timeout=10)
    assert not [each for each in alive if each.status() != psutil.STATUS_ZOMBIE], gone
