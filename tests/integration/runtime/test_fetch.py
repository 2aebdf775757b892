"""Artifacts over real HTTP and from a real disk, with connections that break."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from random import Random

import pytest

from headrace.core.errors import ArtifactError, InvalidRequest
from headrace.runtime.artifacts.digest import FileDigest, folder_digest
from headrace.runtime.artifacts.store import Fetch
from headrace.service.telemetry import Telemetry
from tests.integration.runtime.conftest import MakeStore
from tests.support.file_server import FileServer

WEIGHTS = Random(7).randbytes(1_000_003)
ADAPTER = {"adapter_config.json": b'{"r": 8}', "adapter_model.safetensors": WEIGHTS, "empty": b""}


def digest_of(files: dict[str, bytes]) -> str:
    return folder_digest(
        FileDigest(name, len(body), hashlib.sha256(body).hexdigest())
        for name, body in files.items()
    )


def read(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


async def test_a_folder_is_fetched_whole_and_then_comes_from_the_cache(
    server: FileServer, make_store: MakeStore
) -> None:
    server.folder("a", ADAPTER)
    seen: list[tuple[int, int | None]] = []
    store = make_store(lambda fetch: seen.append((fetch.done_bytes, fetch.total_bytes)))
    lease = await store.fetch("ad", f"{server.url}/a/", None)
    assert read(lease.path) == ADAPTER
    assert lease.digest == digest_of(ADAPTER)
    assert lease.path.parts[-2:] == ("ad", lease.digest.removeprefix("sha256:")[:32])
    total = sum(map(len, ADAPTER.values()))
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    asked = len(server.asked)
    again = await make_store().fetch("ad", f"{server.url}/a/", lease.digest)
    assert again.path == lease.path
    assert len(server.asked) == asked, "a digest that is in the cache needs no network"
    unnamed = await make_store().fetch("ad", f"{server.url}/a/", None)
    assert unnamed.path == lease.path
    assert await store.used_bytes() == total
    for one in (lease, again, unnamed):
        one.release()


async def test_ranges_go_on_where_their_connection_broke(
    server: FileServer, make_store: MakeStore, telemetry: Telemetry
) -> None:
    server.files["w.bin"] = WEIGHTS
    server.cut_after, server.cuts = 10_000, 30
    lease = await make_store().fetch("w", f"{server.url}/w.bin", None)
    assert read(lease.path) == {"w.bin": WEIGHTS}
    came = telemetry.counter("headrace_artifact_bytes_total").labels("http").value
    assert came == len(WEIGHTS), "no byte was asked for twice"
    assert server.cuts == 0
    lease.release()


async def test_several_ranges_are_read_at_once_and_no_more_than_allowed(
    server: FileServer, make_store: MakeStore
) -> None:
    server.files["w.bin"] = WEIGHTS
    server.meet = asyncio.Barrier(3)
    lease = await make_store(parts=3).fetch("w", f"{server.url}/w.bin", None)
    assert server.most_open == 3
    ranges = {told for _, told in server.asked if told != "bytes=0-0"}
    assert len(ranges) == -(-len(WEIGHTS) // 65_536)
    lease.release()


async def test_a_fetch_that_was_cut_short_goes_on_in_another_process_life(
    server: FileServer, make_store: MakeStore, telemetry: Telemetry
) -> None:
    server.files["w.bin"] = WEIGHTS
    half = asyncio.Event()

    def progress(fetch: Fetch) -> None:
        if fetch.done_bytes > 500_000:
            half.set()

    task = asyncio.create_task(make_store(progress).fetch("w", f"{server.url}/w.bin", None))
    await asyncio.wait_for(half.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    counter = telemetry.counter("headrace_artifact_bytes_total").labels("http")
    before = counter.value
    lease = await make_store().fetch("w", f"{server.url}/w.bin", None)
    assert read(lease.path) == {"w.bin": WEIGHTS}
    assert counter.value - before < len(WEIGHTS) - 200_000, "what was there was not read again"
    lease.release()


async def test_a_server_without_ranges_is_read_from_the_beginning_again(
    server: FileServer, make_store: MakeStore
) -> None:
    server.files["w.bin"] = WEIGHTS
    server.ranged = False
    server.cut_after, server.cuts = 300_000, 1
    store = make_store()
    lease = await store.fetch("w", f"{server.url}/w.bin", None)
    assert read(lease.path) == {"w.bin": WEIGHTS}
    lease.release()


async def test_a_busy_server_is_asked_again_but_not_for_ever(
    server: FileServer, make_store: MakeStore
) -> None:
    server.files["w.bin"] = b"x"
    server.fail = [503, 429]
    (await make_store().fetch("w", f"{server.url}/w.bin", None)).release()
    server.files["v.bin"] = b"y"
    server.fail = [503] * 50
    with pytest.raises(ArtifactError, match="503") as raised:
        await make_store(tries=3).fetch("v", f"{server.url}/v.bin", None)
    assert raised.value.retry_safe
    assert len(server.fail) == 47


async def test_what_is_not_there_is_not_asked_for_twice(
    server: FileServer, make_store: MakeStore
) -> None:
    with pytest.raises(ArtifactError, match="404") as raised:
        await make_store().fetch("w", f"{server.url}/w.bin", None)
    assert not raised.value.retry_safe
    assert len(server.asked) == 1


async def test_a_file_that_is_not_what_its_sums_say_is_refused_and_leaves_nothing(
    server: FileServer, make_store: MakeStore, tmp_path: Path
) -> None:
    server.folder("a", ADAPTER)
    server.files["a/adapter_model.safetensors"] = WEIGHTS[:-1] + b"?"
    with pytest.raises(ArtifactError, match="SHA-256"):
        await make_store().fetch("ad", f"{server.url}/a/", None)
    assert not (tmp_path / "cache/ad").exists()


async def test_files_of_another_digest_are_refused_after_one_fresh_download(
    server: FileServer, make_store: MakeStore, tmp_path: Path
) -> None:
    server.files["w.bin"] = WEIGHTS
    wanted = "sha256:" + "0" * 64
    with pytest.raises(ArtifactError, match="expected digest sha256:000") as raised:
        await make_store().fetch("w", f"{server.url}/w.bin", wanted)
    assert not raised.value.retry_safe
    assert list((tmp_path / "cache/.partial").iterdir()) == []


async def test_damaged_leftovers_of_a_crash_do_not_end_a_fetch(
    server: FileServer, make_store: MakeStore, tmp_path: Path
) -> None:
    server.files["w.bin"] = WEIGHTS
    digest = digest_of({"w.bin": WEIGHTS})
    server.cut_after, server.cuts = 0, 10_000
    with pytest.raises(ArtifactError):
        await make_store(tries=2).fetch("w", f"{server.url}/w.bin", digest)
    server.cuts = 0
    (partial,) = (tmp_path / "cache/.partial").iterdir()
    (partial / "parts").write_text("0 0 65536\n")  # noted, but what is on disk is zeros
    lease = await make_store().fetch("w", f"{server.url}/w.bin", digest)
    assert read(lease.path) == {"w.bin": WEIGHTS}
    lease.release()


async def test_a_file_that_changes_under_the_download_is_fetched_anew(
    server: FileServer, make_store: MakeStore
) -> None:
    server.files["w.bin"] = WEIGHTS
    server.etags = False
    changed = bytes(reversed(WEIGHTS))

    def progress(fetch: Fetch) -> None:
        server.etags = True  # the file gets a version, as one that was replaced would
        server.files["w.bin"] = changed

    lease = await make_store(progress, parts=1).fetch("w", f"{server.url}/w.bin", None)
    assert read(lease.path) == {"w.bin": changed}
    lease.release()


async def test_a_replaced_artifact_gets_a_new_path_and_the_old_one_stays_as_it_was(
    server: FileServer, make_store: MakeStore
) -> None:
    server.folder("a", ADAPTER)
    old = await make_store().fetch("ad", f"{server.url}/a/", None)
    server.folder("a", {**ADAPTER, "adapter_config.json": b'{"r": 4}'})
    new = await make_store().fetch("ad", f"{server.url}/a/", None)
    assert new.path != old.path
    assert new.path.parent == old.path.parent
    assert read(old.path) == ADAPTER
    for lease in (old, new):
        lease.release()


async def test_redirections_lead_to_allowed_places_only(
    server: FileServer, make_store: MakeStore
) -> None:
    server.files["real.bin"] = WEIGHTS
    server.moved = {
        "near": "/real.bin",
        "far": "http://169.254.169.254/latest/meta-data",
        "file": "file:///etc/passwd",
        "loop": "/loop",
    }
    lease = await make_store().fetch("w", f"{server.url}/near", None)
    assert read(lease.path) == {"near": WEIGHTS}
    lease.release()
    for path, why in (("far", "not allowed"), ("file", "redirection"), ("loop", "over 5")):
        with pytest.raises(ArtifactError, match=why):
            await make_store().fetch("w", f"{server.url}/{path}", None)


async def test_sources_that_are_not_allowed_are_never_contacted(
    server: FileServer, make_store: MakeStore
) -> None:
    for source in (f"{server.url}/w", "hf://owner/repo", "/etc/passwd", "file:///etc/"):
        with pytest.raises(InvalidRequest, match="not allowed") as raised:
            await make_store(allow=("s3://models/adapters",)).fetch("w", source, None)
        assert raised.value.field == "source"
    assert server.asked == []


async def test_a_folder_of_this_machine_is_copied_but_not_what_its_links_lead_to(
    make_store: MakeStore, tmp_path: Path
) -> None:
    kept = tmp_path / "kept/ad"
    (kept / "deep").mkdir(parents=True)
    (kept / "deep/w.bin").write_bytes(WEIGHTS)
    (kept / "inside").symlink_to(kept / "deep/w.bin")
    lease = await make_store().fetch("ad", str(kept), None)
    assert read(lease.path) == {"deep/w.bin": WEIGHTS, "inside": WEIGHTS}
    assert not (lease.path / "inside").is_symlink()
    lease.release()
    (tmp_path / "secret").write_text("s")
    (kept / "outside").symlink_to(tmp_path / "secret")
    with pytest.raises(ArtifactError, match=r"within artifacts\.allow"):
        await make_store().fetch("ad", str(kept), None)


async def test_one_fetch_has_a_limit_in_time(server: FileServer, make_store: MakeStore) -> None:
    server.files["w.bin"] = WEIGHTS
    server.cut_after, server.cuts = 0, 1_000_000
    with pytest.raises(ArtifactError, match=r"not within 0\.2 s"):
        await make_store(limit_s=0.2, tries=100, retry_most_s=0.05).fetch(
            "w", f"{server.url}/w.bin", None
        )


async def test_room_is_made_by_evicting_what_nobody_uses_longest_unused_first(
    server: FileServer, make_store: MakeStore
) -> None:
    for name in "abcd":
        server.files[name] = name.encode() * 400_000
    room = {"cache_bytes": 1_300_000, "keep_s": 0}
    leases = [await make_store(**room).fetch(n, f"{server.url}/{n}", None) for n in "abc"]
    leases[0].release()
    leases[2].release()
    new = await make_store(**room).fetch("d", f"{server.url}/d", None)
    assert [lease.path.exists() for lease in leases] == [False, True, True]
    server.files["e"] = b"e" * 1_200_000
    with pytest.raises(ArtifactError, match="do not fit") as raised:
        await make_store(**room).fetch("e", f"{server.url}/e", None)
    assert raised.value.retry_safe
    assert leases[1].path.exists()
    leases[1].release()
    new.release()
    recent = {**room, "keep_s": 600}
    with pytest.raises(ArtifactError, match="do not fit"):
        await make_store(**recent).fetch("e", f"{server.url}/e", None)
