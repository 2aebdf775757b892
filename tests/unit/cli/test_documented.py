from __future__ import annotations

import yaml
from pydantic import BaseModel, ConfigDict, Field

from headrace.cli.config import KINDS, UpSettings
from headrace.cli.documented import documented


class Inner(BaseModel):
    """Second line of defence.

    Not shown.
    """

    wait_s: float = Field(default=1.5, description="Seconds to wait. " + "Long words. " * 12)


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")

    names: tuple[str, ...] = Field(default=("a", "b"), description="Some names.")
    api_key: str | None = Field(default=None, description="A key.")
    inner: Inner = Field(default_factory=Inner)
    table: dict[str, int] = Field(default_factory=dict)


def test_each_field_stands_under_its_description() -> None:
    lines = documented(Outer).splitlines()
    assert lines[:2] == ["# Some names.", "names: [a, b]"]
    assert "# Second line of defence." in lines
    assert "  wait_s: 1.5" in lines
    assert all(len(line) <= 100 for line in lines)


def test_reading_the_text_back_gives_the_defaults() -> None:
    assert Outer.model_validate(yaml.safe_load(documented(Outer))) == Outer()


def test_the_settings_of_every_kind_read_back() -> None:
    for kind in KINDS.values():
        assert kind.model_validate(yaml.safe_load(documented(kind))) == kind()


def test_every_setting_of_up_says_what_it_means() -> None:
    def undescribed(model: type[BaseModel], where: str) -> list[str]:
        found = []
        for name, field in model.model_fields.items():
            inner = field.annotation
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                found += undescribed(inner, f"{where}{name}.")
            elif not field.description:
                found.append(f"{where}{name}")
        return found

    assert undescribed(UpSettings, "") == []
