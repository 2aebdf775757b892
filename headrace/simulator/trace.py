"""Reads public traces: Mooncake, Azure, vLLM request logs, and our own plain form.

Reads files, nothing else. Every complaint is a ``ConfigError`` that names file, line and field.
"""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final

from headrace.core.errors import ConfigError

MOONCAKE_BLOCK_TOKENS: Final = 512
_QUANTUM_S: Final = 3.0
_QUANTUM_SLACK_S: Final = 0.005


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One request of a trace or of a synthetic workload.

    Attributes:
        arrival_s: Seconds from the start of the trace.
        prompt_tokens: Length of the prompt.
        output_tokens: Tokens that will be generated.
        hash_ids: Identity of the prompt's runs of ``hash_block_tokens`` tokens, each standing for
            all before it too; the last run may be partial. Empty: the prompt is shared with none.
        hash_block_tokens: Length of such a run.
        output_hash_ids: The runs that follow while the answer is generated, for conversations
            that send it back; empty when unknown.
        session: Key of the conversation it belongs to, or None.
        priority: Higher is served first (the glossary's sense).
        adapter: The LoRA adapter it asks for, or None; ``hash_ids`` are then of that adapter alone.

    """

    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    hash_ids: tuple[int, ...] = ()
    hash_block_tokens: int = 512
    output_hash_ids: tuple[int, ...] = ()
    session: str | None = None
    priority: int = 0
    adapter: str | None = None


_Row = tuple[str, Mapping[str, object]]  # where ("file:line"), and the record


def load_trace(path: Path, seed: int = 0) -> list[TraceRequest]:
    """Read a trace in whichever of the known forms it is, sorted by arrival, from time 0.

    Args:
        path: A ``.jsonl`` or ``.csv`` file, or a folder with a vLLM log's ``requests.jsonl``.
        seed: For the jitter inside Mooncake's 3 s quantum.

    Raises:
        ConfigError: the file is missing, empty, of no known form, or has a malformed line.

    """
    if path.is_dir():
        path = path / "requests.jsonl"
    if not path.is_file():
        raise ConfigError(f"trace {path}: no such file")
    if path.suffix == ".csv":
        return load_azure(path)
    first = next(json_rows(path), None)
    if first is None:
        raise ConfigError(f"trace {path}: empty")
    fields = first[1]
    if "input_length" in fields:
        return load_mooncake(path, seed)
    if "queued_ts" in fields:
        return load_vllm_log(path)
    if "arrival_s" in fields:
        return load_plain(path)
    raise ConfigError(
        f"{first[0]}: neither Mooncake (input_length), nor a vLLM log (queued_ts), nor ours "
        f"(arrival_s); it has {', '.join(sorted(fields))}"
    )


def load_mooncake(path: Path, seed: int = 0) -> list[TraceRequest]:
    """Read ``{timestamp, input_length, output_length, hash_ids}``, timestamps in milliseconds.

    When timestamps are multiples of 3 s (the conversation trace's are, give or take 3 ms),
    arrivals are spread uniformly inside the quantum.

    Raises:
        ConfigError: a line is malformed.

    """
    rows = list(json_rows(path))
    stamps = [number_in(where, row, "timestamp") / 1000.0 for where, row in rows]
    quantised = len(stamps) > 1 and all(
        abs(stamp - _QUANTUM_S * round(stamp / _QUANTUM_S)) <= _QUANTUM_SLACK_S for stamp in stamps
    )
    rng = random.Random(seed)
    requests = []
    for (where, row), stamp_s in zip(rows, stamps, strict=True):
        jitter_s = rng.uniform(0.0, _QUANTUM_S) if quantised else 0.0
        requests.append(
            TraceRequest(
                stamp_s + jitter_s,
                _count(where, row, "input_length"),
                _count(where, row, "output_length"),
                _ids(where, row, "hash_ids"),
                MOONCAKE_BLOCK_TOKENS,
            )
        )
    return _from_zero(requests, path)


def load_azure(path: Path) -> list[TraceRequest]:
    """Read ``TIMESTAMP,ContextTokens,GeneratedTokens``; no prefixes are known.

    Raises:
        ConfigError: a column is missing or a line is malformed.

    """
    requests = []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        wanted = {"TIMESTAMP", "ContextTokens", "GeneratedTokens"}
        missing = wanted - set(reader.fieldnames or ())
        if missing:
            raise ConfigError(f"{path}:1: missing columns: {', '.join(sorted(missing))}")
        for row in reader:
            where = f"{path}:{reader.line_num}"
            requests.append(
                TraceRequest(
                    _timestamp(where, row["TIMESTAMP"]),
                    _count(where, row, "ContextTokens"),
                    max(1, _count(where, row, "GeneratedTokens", least=0)),
                )
            )
    return _from_zero(requests, path)


def load_vllm_log(path: Path) -> list[TraceRequest]:
    """Read the per-request log of a real vLLM run (LLMServingSim's ``requests.jsonl``).

    Raises:
        ConfigError: a line is malformed.

    """
    requests = [
        TraceRequest(
            number_in(where, row, "arrival_time"),
            _count(where, row, "input_toks"),
            _count(where, row, "output_toks"),
        )
        for where, row in json_rows(path)
    ]
    return _from_zero(requests, path)


def load_plain(path: Path) -> list[TraceRequest]:
    """Read our own form: one JSON object per line with the fields of ``TraceRequest``.

    Raises:
        ConfigError: a line is malformed.

    """
    requests = []
    for where, row in json_rows(path):
        session = row.get("session")
        if session is not None and not isinstance(session, str):
            raise ConfigError(f"{where}: session must be a string")
        requests.append(
            TraceRequest(
                number_in(where, row, "arrival_s"),
                _count(where, row, "prompt_tokens"),
                _count(where, row, "output_tokens"),
                _ids(where, row, "hash_ids") if "hash_ids" in row else (),
                _count(where, row, "hash_block_tokens") if "hash_block_tokens" in row else 512,
                _ids(where, row, "output_hash_ids") if "output_hash_ids" in row else (),
                session,
                int(number_in(where, row, "priority")) if "priority" in row else 0,
            )
        )
    return _from_zero(requests, path)


def _from_zero(requests: list[TraceRequest], path: Path) -> list[TraceRequest]:
    """Sort by arrival (ties keep file order) and shift so that the first arrives at 0."""
    if not requests:
        raise ConfigError(f"trace {path}: empty")
    requests.sort(key=lambda request: request.arrival_s)
    start_s = requests[0].arrival_s
    return [replace(request, arrival_s=request.arrival_s - start_s) for request in requests]


def json_rows(path: Path) -> Iterator[_Row]:
    """Yield where each line is (``file:line``) and its JSON object; empty lines are skipped.

    Raises:
        ConfigError: a line is not a JSON object.

    """
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ConfigError(f"{where}: not JSON: {error.msg}") from error
            if not isinstance(row, dict):
                raise ConfigError(f"{where}: not a JSON object")
            yield where, row


def number_in(where: str, row: Mapping[str, object], field: str) -> float:
    """Return a number of a line, given as such or as a CSV cell.

    Raises:
        ConfigError: it is missing or not a number.

    """
    value = row.get(field)
    if isinstance(value, str):  # a CSV cell
        try:
            value = float(value)
        except ValueError:
            value = None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{where}: {field} must be a number, not {row.get(field)!r}")
    return float(value)


def _count(where: str, row: Mapping[str, object], field: str, least: int = 1) -> int:
    value = number_in(where, row, field)
    if value != int(value) or value < least:
        raise ConfigError(f"{where}: {field} must be a whole number >= {least}, not {value:g}")
    return int(value)


def _ids(where: str, row: Mapping[str, object], field: str) -> tuple[int, ...]:
    value = row.get(field)
    if not isinstance(value, list) or not all(
        isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in value
    ):
        raise ConfigError(f"{where}: {field} must be a list of whole numbers >= 0")
    return tuple(value)


def _timestamp(where: str, text: str) -> float:
    """Seconds of ``2023-11-16 18:15:46.6805900``; seven decimals, which datetime does not take."""
    head, _, fraction = text.partition(".")
    try:
        moment = datetime.fromisoformat(f"{head}+00:00")
        return moment.timestamp() + float(f"0.{fraction or '0'}")
    except ValueError as error:
        raise ConfigError(f"{where}: TIMESTAMP is not a date and time: {text!r}") from error
