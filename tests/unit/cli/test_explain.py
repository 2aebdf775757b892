"""``headrace explain`` on recorded decisions."""

from dataclasses import replace
from pathlib import Path

import msgspec
import orjson
import pytest
from typer.testing import CliRunner, Result

from headrace.cli.app import app
from headrace.cli.explained import why
from headrace.core.ids import EndpointId
from headrace.core.outcome import Outcome
from headrace.core.record import Usage
from router.policy import Terms
from router.record import Happened, RecordedDecision, decode, encode
from tests.support.recorded import candidate, recorded, request

SEEN = (
    candidate("sim-0", cached_tokens=900.0, inflight=3, decoding=3, queued_ms=12.5),
    candidate("sim-1", queued_ms=210.0, inflight=5),
    candidate("sim-2", inflight=1, decoding=1),
)


def explain(*words: str, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(app, ["explain", *words], input=stdin, env={"COLUMNS": "160"})


@pytest.fixture
def record() -> RecordedDecision:
    return recorded(request(), SEEN)


@pytest.fixture
def file(record: RecordedDecision, tmp_path: Path) -> Path:
    path = tmp_path / "decision.json"
    path.write_bytes(encode(record))
    return path


def test_a_recorded_decision_is_told_and_made_again(file: Path) -> None:
    result = explain("--file", str(file))
    assert result.exit_code == 0, result.output
    for words in (
        "1,000 prompt tokens for m, to sim-0 of 3",
        "Costs by expected-ttft, in ms",
        "prefill",
        "cached tokens",
        "sim-0 won with",
        "less prefill",
        "kv tokens 400,000",
        "re-run: identical",
    ):
        assert words in result.output
    rows = [line for line in result.output.splitlines() if "sim-" in line and "│" in line]
    assert [row.split("│")[1].strip() for row in rows[:3]] == ["sim-0", "sim-2", "sim-1"]


def test_a_decision_that_comes_out_otherwise_is_shown_and_exits_with_1(
    record: RecordedDecision,
) -> None:
    slower = replace(SEEN[0], queued_ms=500.0)
    told = encode(replace(record, candidates=(slower, *SEEN[1:])))
    result = explain("--file", "-", stdin=told)
    assert result.exit_code == 1
    assert "re-run: DIFFERENT" in result.output
    assert "sim-0 was chosen, now sim-2" in result.output
    assert "queue 20.0, now 507.5" in result.output


def test_another_policys_choice_is_shown_beside_it(file: Path) -> None:
    result = explain("--file", str(file), "--policy", "least-requests")
    assert result.exit_code == 0
    assert "least-requests would have chosen another endpoint. sim-2 won with 1.0" in result.output


def test_json_holds_the_record_the_rerun_and_the_other_policy(
    file: Path, record: RecordedDecision
) -> None:
    result = explain("--file", str(file), "--json", "--policy", "least-requests")
    assert result.exit_code == 0
    (told,) = orjson.loads(result.stdout)
    assert told["rerun"] == {"identical": True, "differences": []}
    assert told["why"].startswith("sim-0 won")
    assert told["other"]["agrees"] is False
    assert told["other"]["ranking"][0]["endpoint_id"] == "sim-2"
    assert decode(msgspec.json.encode(told["record"])) == [record]


def test_every_attempt_in_an_answer_is_told_with_what_came_of_it(
    record: RecordedDecision, tmp_path: Path
) -> None:
    last = replace(
        recorded(request(), SEEN[1:], attempt=1),
        happened=Happened(Outcome.SERVED, 0.25, Usage(1_002, 8, 896)),
    )
    path = tmp_path / "answer.json"
    path.write_bytes(msgspec.json.encode({"object": "x", "attempts": [record, last]}))
    result = explain("--file", str(path), "--top", "1")
    assert result.exit_code == 0
    assert result.output.count("re-run: identical") == 2
    assert "to sim-2 of 2, attempt 2" in result.output
    assert "served, first token after 250.0 ms, 896 of 1,002 prompt tokens" in result.output
    assert "2 more are not shown" in result.output


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ((), 2, "request id"),
        (("r", "--file", "x.json"), 2, "request id"),
        (("--file", "/nonexistent.json"), 2, "/nonexistent.json"),
        (("--file", __file__), 1, "not a recorded decision"),
        (("r", "--url", "gopher://x"), 2, "gopher"),
        (("r", "--url", "http://127.0.0.1:1"), 1, "does not answer"),
        (("r", "--policy", "fastest"), 2, "round-robin"),
        (("r", "--api-key-file", "/nonexistent.key"), 2, "/nonexistent.key"),
        (("r", "--top", "0"), 2, "top"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    words: tuple[str, ...], status: int, said: str
) -> None:
    result = explain(*words)
    assert result.exit_code == status
    assert said in result.stderr
    assert "Traceback" not in result.output


def terms(name: str, **parts: float) -> Terms:
    return Terms(EndpointId(name), sum(parts.values()), tuple(parts.items()))


@pytest.mark.parametrize(
    ("ranking", "said"),
    [
        ([terms("a", queue=3.0)], "a was the only candidate (3.0 ms)."),
        (
            [terms("a", queue=3.0, prefill=1.0), terms("b", queue=1.0, prefill=9.0)],
            "a won with 4.0 ms against 10.0 ms for b: 8.0 ms less prefill, 2.0 ms more queue.",
        ),
        (
            [terms("a", queue=3.0), terms("b", queue=3.0), terms("c", queue=3.0)],
            "a was one of several that cost 3.0 ms, with b and c: it served the session last, "
            "or chance took it.",
        ),
        (
            [terms("a", queue=100.5), terms("b", queue=100.0)],
            "a was taken at 100.5 ms, about as good as 100.0 ms for b: it served the session "
            "last, or chance took it.",
        ),
    ],
)
def test_why_is_one_sentence(ranking: list[Terms], said: str) -> None:
    assert why(ranking, EndpointId("a"), "ms") == said
