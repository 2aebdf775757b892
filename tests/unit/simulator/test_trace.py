from __future__ import annotations

import json
from pathlib import Path

import pytest

from headrace.core.errors import ConfigError
from headrace.simulator.trace import load_trace


def lines(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path


def mooncake(stamp: int, **more: object) -> dict[str, object]:
    row: dict[str, object] = {"timestamp": stamp, "input_length": 600, "output_length": 5}
    return {**row, "hash_ids": [0, 1], **more}


def test_mooncake_arrivals_are_spread_inside_their_quantum_by_seed(tmp_path: Path) -> None:
    path = lines(tmp_path / "t.jsonl", *(mooncake(stamp) for stamp in (0, 0, 2999, 3000, 6001)))
    one, same, other = (load_trace(path, seed) for seed in (1, 1, 2))
    assert one == same != other
    assert one[0].arrival_s == 0.0
    assert all(0.0 <= request.arrival_s < 9.0 for request in one)
    assert len({request.arrival_s for request in one}) == 5
    assert (one[0].hash_ids, one[0].hash_block_tokens) == ((0, 1), 512)


def test_mooncake_arrivals_that_are_exact_are_kept(tmp_path: Path) -> None:
    path = lines(tmp_path / "t.jsonl", mooncake(1000), mooncake(2500))
    assert [request.arrival_s for request in load_trace(path)] == [0.0, 1.5]


def test_azure_rows_have_lengths_but_no_prefixes(tmp_path: Path) -> None:
    path = tmp_path / "azure.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46.6805900,374,44\n"
        "2023-11-16 18:15:50.6805901,10,0\n"
    )
    first, second = load_trace(path)
    assert (first.prompt_tokens, first.output_tokens, first.hash_ids) == (374, 44, ())
    assert second.arrival_s == pytest.approx(4.0, abs=1e-6)
    assert second.output_tokens == 1, "an engine always makes one token"


def test_a_vllm_log_is_read_by_its_folder(tmp_path: Path) -> None:
    row = {"request_id": "b", "input_toks": 7, "output_toks": 3, "queued_ts": 5.0}
    lines(
        tmp_path / "requests.jsonl",
        {**row, "arrival_time": 101.5},
        {**row, "arrival_time": 100.0},
    )
    assert [request.arrival_s for request in load_trace(tmp_path)] == [0.0, 1.5]


def test_our_own_form_carries_every_field(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "t.jsonl",
        {
            "arrival_s": 2.0,
            "prompt_tokens": 33,
            "output_tokens": 4,
            "hash_ids": [1, 2, 3],
            "hash_block_tokens": 16,
            "output_hash_ids": [4],
            "session": "s",
            "priority": 2,
        },
    )
    (request,) = load_trace(path)
    assert (request.hash_ids, request.output_hash_ids) == ((1, 2, 3), (4,))
    assert (request.hash_block_tokens, request.session, request.priority) == (16, "s", 2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"timestamp": 0', r"t\.jsonl:1: not JSON"),
        ("[1]", r"t\.jsonl:1: not a JSON object"),
        ("", "empty"),
        ('{"what": 1}', r"t\.jsonl:1: neither Mooncake .* it has what"),
        (
            json.dumps(mooncake(0)) + "\n" + json.dumps(mooncake(0, input_length=0)),
            ":2: input_length",
        ),
        (json.dumps(mooncake(0, input_length=1.5)), ":1: input_length must be a whole number"),
        (json.dumps(mooncake(0, output_length=None)), ":1: output_length must be a number"),
        (json.dumps(mooncake(0, timestamp=True)), ":1: timestamp must be a number, not True"),
        (json.dumps(mooncake(0, hash_ids=[1, "a"])), ":1: hash_ids must be a list"),
        ('{"arrival_s": 0, "prompt_tokens": 1, "output_tokens": 1, "session": 5}', ":1: session"),
    ],
)
def test_a_malformed_line_is_named_with_its_field(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_trace(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A,B\n1,2\n", "1: missing columns: ContextTokens, GeneratedTokens, TIMESTAMP"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,1,1\n", ":2: TIMESTAMP"),
        (
            "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.1,x,1\n",
            ":2: ContextTokens",
        ),
    ],
)
def test_a_malformed_table_is_named_with_its_column(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_trace(path)


def test_a_missing_trace_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_trace(tmp_path / "absent.jsonl")
