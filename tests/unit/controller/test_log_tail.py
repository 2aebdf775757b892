from __future__ import annotations

from pathlib import Path

from controller.fleets.spawn import log_tail


def test_the_first_error_is_shown_before_the_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    cause = "(EngineCore) ERROR [core.py:1] ValueError: the context does not fit"
    middle = [f"  frame {number}" for number in range(50)]
    log.write_text("\n".join(["started", cause, *middle, "RuntimeError: see above"]))
    shown = log_tail(log, lines=3).splitlines()
    assert [line.strip() for line in shown if line] == [
        cause,
        "...",
        "frame 48",
        "frame 49",
        "RuntimeError: see above",
    ]


def test_a_warning_that_quotes_an_error_is_not_taken_for_the_cause(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    log.write_text("WARNING this can cause `OSError: too many`\n" + "line\n" * 30)
    assert "OSError" not in log_tail(log, lines=3)


def test_what_an_earlier_life_wrote_is_left_out(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    log.write_text("ValueError: old\n")
    since = log.stat().st_size
    log.write_text("ValueError: old\n" + "new\n" * 20)
    assert "old" not in log_tail(log, lines=2, since=since)


def test_a_log_that_is_not_there_is_an_empty_text(tmp_path: Path) -> None:
    assert log_tail(tmp_path / "absent") == ""
