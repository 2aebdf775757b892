from __future__ import annotations

from dataclasses import replace

import pytest

from headrace.core.errors import ArtifactError
from headrace.runtime.artifacts.source import (
    RemoteFile,
    can_change_unseen,
    checked,
    listing_key,
)


def test_files_come_in_order_of_path() -> None:
    files = [RemoteFile("b/c", 1), RemoteFile("a", 1)]
    assert [file.path for file in checked(files, "x", 2)] == ["a", "b/c"]


@pytest.mark.parametrize(
    "paths",
    [
        [],
        ["a", "b", "c"],
        ["../a"],
        ["a/../../b"],
        ["/etc/passwd"],
        ["a//b"],
        ["a\\b"],
        ["a\0b"],
        ["a\n"],
        ["."],
        ["a", "a"],
        ["a", "a/b"],
        ["x" * 2_000],
    ],
)
def test_listings_that_cannot_lie_in_a_folder_of_ours_are_refused(paths: list[str]) -> None:
    with pytest.raises(ArtifactError):
        checked([RemoteFile(path, 1) for path in paths], "x", 2)


def test_the_key_of_a_listing_changes_with_all_that_tells_of_a_change() -> None:
    file = RemoteFile("a", 1, "v1")
    others = (
        replace(file, path="b"),
        replace(file, size_bytes=2),
        replace(file, version="v2"),
        replace(file, sha256="0" * 64),
    )
    assert len({listing_key([one]) for one in (file, *others)}) == 5
    assert listing_key([file]) == listing_key([replace(file, ranged=False)])
    assert not can_change_unseen([file])
    assert can_change_unseen([file, RemoteFile("b", 1)])
