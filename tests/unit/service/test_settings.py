from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from headrace.core.errors import ConfigError
from headrace.service.settings import describe, load_settings


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    port: int = Field(default=1, ge=1)
    name: str = "n"


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    inner: Inner = Field(default_factory=Inner)
    others: list[Inner] = []
    maybe: Inner | None = None
    api_key: SecretStr | None = None
    token: str | None = None


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "settings.yaml"


def test_without_a_file_the_defaults_hold() -> None:
    assert load_settings(Outer, None) == Outer()


def test_an_empty_file_is_no_settings(file: Path) -> None:
    file.write_text("# nothing\n")
    assert load_settings(Outer, file) == Outer()


def test_flags_win_over_the_file(file: Path) -> None:
    file.write_text("inner:\n  port: 2\n  name: filed\n")
    loaded = load_settings(Outer, file, {"inner.port": 3, "maybe.name": "new"})
    assert (loaded.inner.port, loaded.inner.name) == (3, "filed")
    assert loaded.maybe == Inner(name="new")


def test_every_problem_is_reported_with_its_dotted_field(file: Path) -> None:
    file.write_text("inner:\n  port: 0\n  name: [1]\nothers:\n  - port: x\n")
    with pytest.raises(ConfigError) as raised:
        load_settings(Outer, file)
    text = str(raised.value)
    assert "3 problem(s)" in text
    assert all(field in text for field in ("inner.port", "inner.name", "others.0.port"))
    assert str(file) in text


@pytest.mark.parametrize(
    ("text", "field", "known"),
    [
        ("prot: 1", "prot", "api_key, inner, maybe, others, token"),
        ("inner: {prot: 1}", "inner.prot", "name, port"),
        ("others: [{prot: 1}]", "others.0.prot", "name, port"),
        ("maybe: {prot: 1}", "maybe.prot", "name, port"),
    ],
)
def test_an_unknown_key_is_told_what_is_known_there(
    file: Path, text: str, field: str, known: str
) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError, match="unknown key") as raised:
        load_settings(Outer, file)
    assert f"{field}: unknown key; known here: {known}" in str(raised.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [", "not YAML"),
        ("- 1", "expected a mapping"),
        ("inner: {port: 1}\ninner: {port: 2}", "appears twice"),
        ("? [a, b]\n: 1", "appears twice"),
        ("\x00", "not YAML"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(file: Path, text: str, says: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError, match=says):
        load_settings(Outer, file)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read"):
        load_settings(Outer, tmp_path / "nowhere.yaml")


def test_a_flag_below_a_value_is_refused(file: Path) -> None:
    file.write_text("inner: 3\n")
    with pytest.raises(ConfigError, match="is a value"):
        load_settings(Outer, file, {"inner.port": 1})


def test_a_huge_file_is_refused(file: Path) -> None:
    file.write_bytes(b"#" * (1 << 20) + b"\n")
    with pytest.raises(ConfigError, match="longer than"):
        load_settings(Outer, file)


def test_secrets_are_masked_when_settings_are_shown() -> None:
    shown = describe(Outer(api_key=SecretStr("hunter2"), token="hunter3"))
    assert "hunter" not in shown
    assert "port: 1" in shown
