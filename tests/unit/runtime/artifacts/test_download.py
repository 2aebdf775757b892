from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from headrace.runtime.artifacts.download import Journal, Part, parts_of
from headrace.runtime.artifacts.source import RemoteFile


@given(st.lists(st.integers(0, 500), max_size=6), st.integers(1, 100), st.booleans())
def test_parts_cover_every_byte_once(sizes: list[int], part_bytes: int, ranged: bool) -> None:
    files = tuple(RemoteFile(str(i), size, ranged=ranged) for i, size in enumerate(sizes))
    covered = [
        (part.file, at)
        for part in parts_of(files, part_bytes)
        for at in range(part.start, part.stop)
    ]
    assert covered == [(i, at) for i, size in enumerate(sizes) for at in range(size)]


def test_a_journal_gives_back_whole_lines_only(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "parts")
    assert journal.read() == set()
    journal.add(Part(0, 0, 10))
    journal.add(Part(1, 10, 20))
    with (tmp_path / "parts").open("a") as opened:
        opened.write("x y z\n-1 0 5\n2 20 3")
    assert journal.read() == {Part(0, 0, 10), Part(1, 10, 20)}
