from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from gateway.keys import ANONYMOUS, Keys, load_keys
from headrace.core.errors import ConfigError, Unauthenticated

DIGEST = hashlib.sha256(b"sesame").hexdigest()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def test_without_a_file_everyone_is_served() -> None:
    assert load_keys(None).tenant(None) == ANONYMOUS


def test_a_key_names_its_tenant(file: Path) -> None:
    file.write_text(f"\n# all of them\n{DIGEST}   team-a # note\n{'0' * 64} nobody\n")
    keys = load_keys(file)
    assert keys.tenant(b"Bearer sesame") == "team-a"
    assert keys.tenant(b"bearer  sesame ") == "team-a"


@pytest.mark.parametrize(
    "header", [None, b"", b"Bearer", b"Bearer ", b"sesame", b"Basic sesame", b"Bearer x\xff"]
)
def test_anything_else_is_refused(file: Path, header: bytes | None) -> None:
    file.write_text(f"{DIGEST} team-a\n")
    with pytest.raises(Unauthenticated):
        load_keys(file).tenant(header)


def test_the_hash_itself_is_no_key(file: Path) -> None:
    file.write_text(f"{DIGEST} team-a\n")
    with pytest.raises(Unauthenticated):
        load_keys(file).tenant(b"Bearer " + DIGEST.encode())


def test_an_empty_list_accepts_nobody() -> None:
    with pytest.raises(Unauthenticated):
        Keys({}).tenant(b"Bearer sesame")


def test_every_wrong_line_is_reported(file: Path) -> None:
    file.write_text(f"sesame team-a\n{DIGEST}\n{DIGEST} a\n{DIGEST} b\n{DIGEST[:-1]}g x\n")
    with pytest.raises(ConfigError) as raised:
        load_keys(file)
    text = str(raised.value)
    assert all(f":{line}:" in text for line in (1, 2, 4, 5))
    assert "sesame" not in text


def test_a_file_without_keys_shuts_nobody_out_by_mistake(file: Path) -> None:
    file.write_text("# none yet\n")
    with pytest.raises(ConfigError, match="holds no key"):
        load_keys(file)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_keys(tmp_path / "none")
