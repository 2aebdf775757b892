from __future__ import annotations

import io
import json
import subprocess
import sys

import pytest

from headrace.service.lines import ConsoleLines, JsonLines
from headrace.service.log import MASK, configure_logging, get_logger, is_secret, mask

SCRIPT = """
import logging
from headrace.service.log import configure_logging, get_logger
early = get_logger("early")
configure_logging(json={json}, level="info")
early.info("first", api_key="hunter2", authorization="hunter2", keys_file="/etc/keys")
get_logger("late").debug("quiet")
logging.getLogger("library").warning("told %s", "so")
try:
    1 / 0
except ZeroDivisionError as error:
    early.error("failed", exc_info=error)
"""


def lines_of(*, as_json: bool) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(json=as_json)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_json_lines_carry_level_component_and_no_secret() -> None:
    first, library, failed = (json.loads(line) for line in lines_of(as_json=True))
    assert first["event"] == "first"
    assert (first["component"], first["level"]) == ("early", "info")
    assert (first["api_key"], first["authorization"]) == (MASK, MASK)
    assert first["keys_file"] == "/etc/keys"
    assert (library["event"], library["component"]) == ("told so", "library")
    assert "ZeroDivisionError" in failed["exception"]


def test_lines_for_people_hold_no_secret_either() -> None:
    text = "\n".join(lines_of(as_json=False))
    assert "first" in text
    assert "hunter2" not in text
    assert "quiet" not in text


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown log level"):
        configure_logging(json=True, level="loud")


@pytest.mark.parametrize("name", ["key", "api_key", "API-Key", "password", "hf_token", "cookie"])
def test_names_of_secrets_are_known(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize("name", ["keys_file", "prompt_tokens", "monkey", "keyboard", "model"])
def test_other_names_are_not(name: str) -> None:
    assert not is_secret(name)


def test_nothing_is_masked_where_nothing_is_set() -> None:
    assert mask(None) is None
    assert mask("x") == MASK


def test_a_request_line_is_one_json_object_with_a_time() -> None:
    stream = io.BytesIO()
    writer = JsonLines(stream)
    writer.write("request", {"model": "m", "ttft_s": 0.25, "endpoint": None})
    writer.flush()
    (line,) = stream.getvalue().splitlines()
    row = json.loads(line)
    assert row.pop("timestamp").endswith("+00:00")
    assert row == {
        "event": "request",
        "level": "info",
        "model": "m",
        "ttft_s": 0.25,
        "endpoint": None,
    }


def test_a_line_for_people_leaves_out_what_is_not_known() -> None:
    told: list[tuple[str, dict[str, object]]] = []

    class Recorder:
        def info(self, event: str, **fields: object) -> None:
            told.append((event, fields))

    writer = ConsoleLines(Recorder())  # type: ignore[arg-type]
    writer.write("request", {"model": "m", "endpoint": None})
    writer.flush()
    assert told == [("request", {"model": "m"})]
    assert get_logger("x") is not None
