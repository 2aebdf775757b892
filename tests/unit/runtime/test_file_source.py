from __future__ import annotations

import pytest

from headrace.runtime.file_source import Stamp, due

READ = Stamp(mtime_ns=1, size_bytes=10, inode=7)
WRITTEN = Stamp(mtime_ns=2, size_bytes=10, inode=7)
GROWING = Stamp(mtime_ns=3, size_bytes=12, inode=7)
EXCHANGED = Stamp(mtime_ns=1, size_bytes=10, inode=8)


@pytest.mark.parametrize(
    ("now", "seen", "read", "expected"),
    [
        (READ, READ, READ, False),
        (EXCHANGED, READ, READ, True),
        (WRITTEN, READ, READ, False),
        (WRITTEN, WRITTEN, READ, True),
        (GROWING, WRITTEN, READ, False),
        (READ, None, None, True),
    ],
    ids=["same", "exchanged", "just written", "still since", "being written", "back again"],
)
def test_a_file_is_read_when_it_is_another_or_has_been_still(
    now: Stamp, seen: Stamp | None, read: Stamp | None, expected: bool
) -> None:
    assert due(now, seen, read) is expected
