from __future__ import annotations

import os
from pathlib import Path

import pytest

from headrace.core.errors import ArtifactError
from headrace.runtime.artifacts.cache import Lease, NodeCache, Record
from headrace.runtime.artifacts.locks import try_lock

DIGEST = "sha256:" + "ab" * 32


def opened(root: Path, limit_bytes: int = 1_000, keep_s: float = 0.0) -> NodeCache:
    cache = NodeCache(root, limit_bytes, keep_s)
    cache.open()
    return cache


def put(cache: NodeCache, name: str, size: int = 10, digest: str = DIGEST) -> Lease:
    lock = cache.lock(f"k{len(name)}")
    assert lock is not None
    folder = cache.reserve("k", size, name.encode())
    assert folder is not None
    (folder / "files/w").write_bytes(b"w" * size)
    lease = cache.publish("k", Record(name, digest, size, "s3://b/k", f"o-{name}"))
    lock.release()
    assert lease is not None
    return lease


@pytest.mark.parametrize("name", ["ad", "org/ad", "..", ".leases", "ä" * 256, "a@b", "~x"])
def test_any_name_has_a_folder_of_its_own_within_the_cache(tmp_path: Path, name: str) -> None:
    cache = opened(tmp_path)
    lease = put(cache, name)
    assert lease.path.parent.parent == tmp_path
    assert not lease.path.parent.name.startswith(".")
    found = cache.find(name, DIGEST)
    assert found is not None
    assert found.path == lease.path
    for one in (lease, found):
        one.release()


def test_a_folder_without_its_record_is_not_found_and_is_replaced(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    lease = put(cache, "ad")
    lease.release()
    lease.path.with_suffix(".json").unlink()
    (lease.path / "torn").write_bytes(b"?")
    assert cache.find("ad", DIGEST) is None
    again = put(cache, "ad")
    assert sorted(path.name for path in again.path.iterdir()) == ["w"]
    again.release()


def test_artifacts_are_found_by_path_link_and_origin_and_by_nothing_else(tmp_path: Path) -> None:
    cache = opened(tmp_path / "cache")
    lease = put(cache, "ad")
    link = tmp_path / "model"
    link.symlink_to(lease.path)
    for found in (cache.at(link), cache.at(lease.path), cache.from_origin("ad", "o-ad")):
        assert found is not None
        assert found.digest == DIGEST
        found.release()
    for path in (tmp_path, lease.path / "w", lease.path.parent, Path("/"), Path("nowhere")):
        assert cache.at(path) is None
    assert cache.from_origin("ad", "another") is None
    assert cache.find("ad", "sha256:" + "ab" * 16 + "cd" * 16) is None, "the whole digest counts"
    lease.release()


def test_what_is_held_or_was_used_just_now_is_not_evicted(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    held, free = put(cache, "held", 400), put(cache, "free", 400)
    free.release()
    recent = NodeCache(tmp_path, 1_000, keep_s=60.0)
    with pytest.raises(ArtifactError, match="do not fit"):
        recent.reserve("new", 500, b"plan")
    assert cache.reserve("new", 500, b"plan") is not None
    assert held.path.exists()
    assert not free.path.exists()
    assert cache.used_bytes() == 900
    held.release()


def test_what_can_never_fit_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError) as raised:
        opened(tmp_path).reserve("new", 2_000, b"plan")
    assert not raised.value.retry_safe


def test_what_a_gone_process_was_fetching_makes_room_but_not_what_a_living_one_is(
    tmp_path: Path,
) -> None:
    cache = opened(tmp_path)
    lock = cache.lock("other")
    assert lock is not None
    assert cache.reserve("other", 800, b"plan") is not None
    with pytest.raises(ArtifactError, match="do not fit"):
        cache.reserve("new", 500, b"plan")
    lock.release()
    assert cache.reserve("new", 500, b"plan") is not None
    assert not (tmp_path / ".partial/other").exists()


def test_the_same_plan_goes_on_and_another_begins_anew(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    folder = cache.reserve("k", 10, b"plan")
    assert folder is not None
    (folder / "parts").write_text("0 0 5\n")
    assert cache.reserve("k", 10, b"plan") == folder
    assert (folder / "parts").exists()
    assert cache.reserve("k", 10, b"other plan") == folder
    assert not (folder / "parts").exists()


def test_a_lock_on_a_file_that_was_removed_meanwhile_is_taken_anew(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first = try_lock(path)
    assert first is not None
    first.delete()
    second = try_lock(path)
    assert second is not None, "the file of the first is gone, so this is another lock"
    assert try_lock(path) is None
    first.release()
    assert try_lock(path) is None
    second.release()


def test_shared_locks_go_together_and_keep_an_exclusive_one_out(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert try_lock(path, create=False) is None
    held = [try_lock(path, shared=True) for _ in range(2)]
    assert all(held)
    assert try_lock(path) is None
    del held  # one that reached nobody ends with its object
    last = try_lock(path)
    assert last is not None
    last.release()


def test_a_cache_that_cannot_be_made_names_its_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match=r"artifacts\.cache_dir"):
        opened(tmp_path / "file/cache")
    assert os.listdir(tmp_path) == ["file"]
