from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.result import Goal, Result, commit, machine, rounded, write_result
from bench.results import BadResultError, main, read_rows, render


def write(directory: Path, **figures: float) -> Path:
    goals = [Goal("P1", "ratio", "<=", 0.8), Goal("P2", "absent_ms", "<=", 5.0)]
    result = Result("demo", "Is it cheap?", "make bench-demo", figures, goals, seeds=[1])
    return write_result(result, directory)


def test_a_goal_is_judged_by_its_figure(tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path, ratio=0.8))
    assert [(row.goal_id, row.value, row.met) for row in rows] == [
        ("P1", 0.8, True),
        ("P2", None, False),
    ]


def test_a_goal_missed_is_written_as_missed(tmp_path: Path) -> None:
    assert not read_rows(write(tmp_path, ratio=0.81))[0].met


def test_a_goal_is_judged_by_the_value_that_is_written(tmp_path: Path) -> None:
    # 0.800001 is written as 0.8; a reader who compares must come to the verdict that is written
    row = read_rows(write(tmp_path, ratio=0.800001))[0]
    assert (row.value, row.met) == (0.8, True)


def test_a_goal_with_an_unknown_operator_is_refused() -> None:
    with pytest.raises(ValueError, match="expected one of <=, <, >=, >, =="):
        Goal("P1", "ratio", "~", 1.0)


def test_a_result_says_where_it_comes_from(tmp_path: Path) -> None:
    document = json.loads(write(tmp_path, ratio=0.5).read_text())
    assert document["machine"]["cores"] >= 1
    assert document["commit"]
    assert document["versions"]["python"]
    assert document["seeds"] == [1]
    assert document["date"].count("-") == 2


def test_figures_are_written_to_five_digits() -> None:
    assert [rounded(v) for v in (123456.789, 0.000123456789, 0.0)] == [123460.0, 0.00012346, 0.0]
    assert rounded(123456789) == 123456789


@pytest.mark.parametrize(
    "change",
    [{"met": True}, {"value": 0.1}, {"op": "~"}],
    ids=["a verdict that is wrong", "a value that is not the figure", "an operator unknown"],
)
def test_a_file_that_contradicts_itself_is_refused(
    tmp_path: Path, change: dict[str, object]
) -> None:
    path = write(tmp_path, ratio=0.9)
    document = json.loads(path.read_text())
    document["goals"][0].update(change)
    path.write_text(json.dumps(document))
    with pytest.raises(BadResultError, match=r"demo\.json"):
        read_rows(path)


def test_the_table_has_every_goal_of_every_file_and_counts_those_met(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, ratio=0.7)
    assert render(read_rows(tmp_path / "demo.json")).row_count == 2
    assert main([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "1 of 2 goals met" in printed
    assert "not measured" in printed


def test_a_broken_file_is_named_and_the_others_still_print(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, ratio=0.7)
    (tmp_path / "broken.json").write_text("{")
    assert main([str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert "broken.json" in captured.err
    assert "1 of 2 goals met" in captured.out


def test_the_commit_and_the_machine_are_known_without_arguments() -> None:
    assert commit()
    assert machine()["memory_gib"] > 0
