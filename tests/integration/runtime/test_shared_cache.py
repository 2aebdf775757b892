"""One cache folder, several processes: what one has fetched the others do not fetch again."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from random import Random

from headrace.runtime.artifacts.cache import NodeCache
from headrace.runtime.artifacts.locks import try_lock
from tests.integration.runtime.conftest import Spawn
from tests.support.file_server import FileServer

WEIGHTS = Random(3).randbytes(2_000_000)
LIMIT_S = 90.0
"""A process takes two seconds to start here, and ten on a machine that builds something else."""


def content(path: bytes) -> bytes:
    return Path(path.decode().strip(), "w.bin").read_bytes()


async def fetching(
    spawn: Spawn, server: FileServer, cache: Path, config: Path
) -> asyncio.subprocess.Process:
    settings = f"artifacts: {{cache_dir: {cache}, part_bytes: 65536, parts: 2, tries: 20}}\n"
    await asyncio.to_thread(config.write_text, settings)
    words = ("-m", "headrace.cli", "fetch", f"{server.url}/w.bin", "-c", str(config))
    return await spawn(*words, "--log-level", "error")


async def test_processes_that_want_the_same_fetch_it_once(
    spawn: Spawn, server: FileServer, tmp_path: Path
) -> None:
    server.files["w.bin"] = WEIGHTS
    cache, config = tmp_path / "cache", tmp_path / "c.yaml"
    processes = [await fetching(spawn, server, cache, config) for _ in range(2)]
    async with asyncio.timeout(LIMIT_S):
        said = [await process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0] * 2, said
    (path,) = {out for out, _ in said}
    assert content(path) == WEIGHTS
    assert server.sent_bytes < 1.1 * len(WEIGHTS)


async def test_another_process_goes_on_with_what_a_killed_one_had(
    spawn: Spawn, server: FileServer, tmp_path: Path
) -> None:
    server.files["w.bin"] = WEIGHTS
    cache, config = tmp_path / "cache", tmp_path / "c.yaml"
    # Past so many bytes the server is silent: the process that waits for them is killed.
    server.stall_after_bytes = 1_000_000
    first = await fetching(spawn, server, cache, config)
    async with asyncio.timeout(LIMIT_S):
        await server.stalled.wait()
        first.send_signal(signal.SIGKILL)
        await first.wait()
        server.stall_after_bytes = None
        before = server.sent_bytes
        second = await fetching(spawn, server, cache, config)
        out, err = await second.communicate()
    assert second.returncode == 0, err
    assert content(out) == WEIGHTS
    assert server.sent_bytes - before < 1_300_000


async def test_a_link_moves_to_the_new_version_and_replaces_nothing_else(
    spawn: Spawn, server: FileServer, tmp_path: Path
) -> None:
    cache, link = tmp_path / "cache", tmp_path / "model"
    targets = []
    for body in (b"one", b"two"):
        server.files["w.bin"] = body
        words = ("-m", "headrace.cli", "fetch", f"{server.url}/w.bin", "--cache", str(cache))
        process = await spawn(*words, "--link", str(link), "--name", "org/model")
        async with asyncio.timeout(LIMIT_S):
            out, _ = await process.communicate()
        assert (link / "w.bin").read_bytes() == body
        assert str(link.resolve()) == out.decode().strip()
        targets.append(link.resolve())
    assert targets[0] != targets[1]
    assert (targets[0] / "w.bin").read_bytes() == b"one"
    held = NodeCache(cache, 10**9, 0).at(link)
    assert held is not None
    assert held.record.name == "org/model"
    held.release()


async def test_a_lock_ends_with_the_process_that_held_it(spawn: Spawn, tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = (
        "import pathlib, sys\n"
        "from headrace.runtime.artifacts.locks import try_lock\n"
        "lock = try_lock(pathlib.Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    process = await spawn("-c", code, str(path), stdin=asyncio.subprocess.PIPE)
    async with asyncio.timeout(LIMIT_S):
        assert process.stdout is not None
        await process.stdout.readline()
        assert try_lock(path) is None
        assert try_lock(path, shared=True) is None
        process.kill()
        await process.communicate()
    lock = try_lock(path)
    assert lock is not None
    lock.release()
