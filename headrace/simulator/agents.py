"""Recorded agent sessions, replayed as fresh sessions at any rate.

Reads the folders of LMCache's agent traces: one file per session, one line per call with
``timestamp`` (microseconds), ``input`` (the text sent) and ``output`` (the text that came back).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from headrace.core.errors import ConfigError
from headrace.simulator.trace import TraceRequest, json_rows, number_in

BLOCK_TOKENS: Final = 16
BYTES_PER_TOKEN: Final = 4

TOOL_CALL_TOKENS: Final = 32
"""Output of a call whose recorded output is empty: a tool call, whose text was not kept."""

SECONDS_PER_OUTPUT_TOKEN: Final = 0.03
"""Spaces turns: the next one comes after the recorded gap, or this long per token if longer."""

COMMON_RATIO: Final = 0.5
"""What at least so many of the sessions begin with belongs to the application, not to a session."""


@dataclass(frozen=True, slots=True)
class AgentTurn:
    """One recorded call; ``gap_s`` is the time to the next one, 0 for the last.

    ``blocks`` names the prompt's full blocks of ``BLOCK_TOKENS`` by content, each standing for all
    before it too.
    """

    gap_s: float
    prompt_tokens: int
    output_tokens: int
    blocks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AgentTrace:
    """Recorded sessions, each its turns in order.

    Attributes:
        sessions: By name; none is empty.
        common: Blocks that every replayed copy shares; the others are a copy's own.
        block_ids: How many different blocks there are; ids are below it.

    """

    sessions: Mapping[str, tuple[AgentTurn, ...]]
    common: frozenset[int]
    block_ids: int

    @property
    def mean_turns(self) -> float:
        """Turns per session."""
        return sum(map(len, self.sessions.values())) / len(self.sessions)

    @property
    def longest_s(self) -> float:
        """Time from the first to the last turn of the longest session."""
        return max(sum(turn.gap_s for turn in turns) for turns in self.sessions.values())


def load_agents(folder: Path) -> AgentTrace:
    """Read every session of ``folder``; files without a line are skipped.

    Raises:
        ConfigError: there is no session, or a line is malformed.

    """
    known: dict[tuple[int, bytes], int] = {}
    sessions = {}
    for path in sorted(folder.glob("*.jsonl")):
        turns = tuple(_turns(path, known))
        if turns:
            sessions[path.stem] = turns
    if not sessions:
        raise ConfigError(f"trace {folder}: no agent session (*.jsonl) with a line in it")
    holders: dict[int, int] = {}
    for turns in sessions.values():
        for block in {block for turn in turns for block in turn.blocks}:
            holders[block] = holders.get(block, 0) + 1
    least = max(2.0, COMMON_RATIO * len(sessions))
    common = frozenset(block for block, count in holders.items() if count >= least)
    return AgentTrace(sessions, common, len(known))


def replay_agents(
    trace: AgentTrace, *, seed: int, rate_rps: float, count: int
) -> list[TraceRequest]:
    """Return ``count`` requests at ``rate_rps`` of sessions that begin as a Poisson process.

    The sessions are gone through again and again, each time in a new order. Within one pass they
    share what their texts share; from one pass to the next, only ``trace.common``. As the window
    opens, as many sessions are under way as there will always be: those began before it.

    Args:
        trace: From :func:`load_agents`.
        seed: Same seed, same requests.
        rate_rps: Mean requests per second, counting every turn; > 0.
        count: >= 1.

    """
    assert rate_rps > 0.0
    assert count >= 1
    rng = random.Random(f"agents/{seed}")
    due: list[_Due] = []
    start_s = -trace.longest_s
    for number, (name, turns) in enumerate(_passes(trace, rng)):
        start_s += rng.expovariate(rate_rps / trace.mean_turns)
        # what begins later is later than every request kept
        if start_s > 0.0 and sum(one.at_s <= start_s for one in due) >= count:
            break
        shift = (1 + number // len(trace.sessions)) * trace.block_ids
        due += _session(turns, start_s, shift, f"{name}-{number}")
    due.sort(key=lambda one: one.at_s)
    del due[count:]
    return [one.request(trace.common, due[0].at_s) for one in due]


@dataclass(frozen=True, slots=True)
class _Due:
    """A turn of one copy, and when it comes."""

    at_s: float
    turn: AgentTurn
    shift: int
    session: str

    def request(self, common: frozenset[int], start_s: float) -> TraceRequest:
        """Return it with the copy's own block ids."""
        shift = self.shift
        ids = tuple(b if b in common else b + shift for b in self.turn.blocks)
        return TraceRequest(
            self.at_s - start_s,
            self.turn.prompt_tokens,
            self.turn.output_tokens,
            ids,
            BLOCK_TOKENS,
            session=self.session,
        )


def _passes(trace: AgentTrace, rng: random.Random) -> Iterator[tuple[str, tuple[AgentTurn, ...]]]:
    """Yield sessions for ever, every one once per pass."""
    order = list(trace.sessions.items())
    while True:
        rng.shuffle(order)
        yield from order


def _session(
    turns: tuple[AgentTurn, ...], start_s: float, shift: int, session: str
) -> Iterator[_Due]:
    """The turns of one copy that come at time 0 or later."""
    at_s = start_s
    for turn in turns:
        if at_s >= 0.0:
            yield _Due(at_s, turn, shift, session)
        at_s += turn.gap_s


def _turns(path: Path, known: dict[tuple[int, bytes], int]) -> Iterator[AgentTurn]:
    rows = [
        (number_in(where, row, "timestamp") / 1e6, _text(where, row, "input"), row, where)
        for where, row in json_rows(path)
    ]
    rows.sort(key=lambda row: row[0])  # the recorder wrote a few lines out of order
    for index, (at_s, prompt, row, where) in enumerate(rows):
        output = _tokens(_text(where, row, "output")) or TOOL_CALL_TOKENS
        after_s = rows[index + 1][0] - at_s if index + 1 < len(rows) else None
        gap_s = 0.0 if after_s is None else max(after_s, output * SECONDS_PER_OUTPUT_TOKEN)
        yield AgentTurn(gap_s, max(1, _tokens(prompt)), output, _blocks(prompt, known))


def _blocks(prompt: bytes, known: dict[tuple[int, bytes], int]) -> tuple[int, ...]:
    """Name the full blocks of ``prompt``; equal beginnings get equal names."""
    size = BLOCK_TOKENS * BYTES_PER_TOKEN
    ids: list[int] = []
    parent = -1
    for start in range(0, len(prompt) - size + 1, size):
        parent = known.setdefault((parent, prompt[start : start + size]), len(known))
        ids.append(parent)
    return tuple(ids)


def _tokens(text: bytes) -> int:
    return -(-len(text) // BYTES_PER_TOKEN)


def _text(where: str, row: Mapping[str, object], field: str) -> bytes:
    value = row.get(field)
    if not isinstance(value, str):
        raise ConfigError(f"{where}: {field} must be a string")
    return value.encode()
