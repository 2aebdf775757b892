from __future__ import annotations

import pytest

from headrace.cli.config import LogSettings
from headrace.cli.serving import configure_log
from headrace.service.lines import ConsoleLines, JsonLines


@pytest.mark.parametrize("level", ["warning", "error"])
def test_request_lines_are_left_out_above_info(level: str) -> None:
    assert configure_log(LogSettings.model_validate({"level": level, "form": "json"})) is None


def test_request_lines_have_the_form_of_the_log() -> None:
    assert isinstance(configure_log(LogSettings(form="json")), JsonLines)
    assert isinstance(configure_log(LogSettings(form="text")), ConsoleLines)
