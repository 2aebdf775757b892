from __future__ import annotations

from hashlib import sha256

import pytest

from headrace.core.errors import InvalidRequest
from headrace.runtime.artifacts.digest import FileDigest, check_digest, folder_digest, folder_name

ONE = FileDigest("a", 1, sha256(b"1").hexdigest())
TWO = FileDigest("b/c", 2, sha256(b"22").hexdigest())


def test_a_digest_is_that_of_the_lines_of_all_files_in_order() -> None:
    lines = f"a\0001\0{ONE.sha256}\nb/c\0002\0{TWO.sha256}\n".encode()
    assert folder_digest([TWO, ONE]) == f"sha256:{sha256(lines).hexdigest()}"


def test_names_sizes_and_contents_all_count() -> None:
    digests = {
        folder_digest(files)
        for files in (
            [],
            [ONE],
            [ONE, TWO],
            [FileDigest("b", 1, ONE.sha256)],
            [FileDigest("a", 2, ONE.sha256)],
            [FileDigest("a", 1, TWO.sha256)],
        )
    }
    assert len(digests) == 6


def test_only_digests_are_digests() -> None:
    good = folder_digest([ONE])
    assert check_digest(good) == good
    assert good.startswith(f"sha256:{folder_name(good)}")
    for wrong in ("", "sha256:", good.upper(), good + "0", good.removeprefix("sha256:"), "../" * 9):
        with pytest.raises(InvalidRequest):
            check_digest(wrong)
