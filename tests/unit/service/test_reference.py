from __future__ import annotations

import runpy
from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel, Field, SecretStr

from headrace.service.metrics import MetricSpec
from headrace.service.reference import metrics_table, settings_tables

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "write-docs"
PAGES: dict[Path, str] = runpy.run_path(str(SCRIPT))["pages"]()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_page_is_what_the_code_says(page: Path) -> None:
    assert page.read_text(encoding="utf-8") == PAGES[page], (
        "run: .venv/bin/python scripts/write-docs"
    )


class Inner(BaseModel):
    """Inside."""

    form: Literal["a", "b"] = "a"


class Outer(BaseModel):
    """Outside,
    in two lines."""

    count: int = Field(default=3, ge=1, le=9, description="How many | at once.")
    name: str
    secret: SecretStr | None = None
    inner: Inner = Field(default_factory=Inner)
    several: list[Inner] = []
    words: tuple[str, ...] = ("x",)


def test_a_setting_is_a_row_with_default_range_and_meaning() -> None:
    text = settings_tables(Outer)
    assert "Outside, in two lines." in text
    assert "| `count` | `3` | integer, ≥ 1, ≤ 9 | How many \\| at once. |" in text
    assert "| `name` | required | text |" in text
    assert "| `secret` | unset | secret or unset |" in text
    assert "| `words` | `['x']` | list of text |" in text
    assert "see `inner`" in text


def test_groups_have_sections_by_their_path() -> None:
    text = settings_tables(Outer)
    assert "## `inner`" in text
    assert "## `several[]`" in text
    assert "| `form` | `a` | `a`, `b` |" in text


def test_a_metric_is_a_row() -> None:
    spec = MetricSpec("x_total", "counter", "things", "Things.", ("a", "b"))
    assert "| `x_total` | counter | things | `a`, `b` | Things. |" in metrics_table([spec])
