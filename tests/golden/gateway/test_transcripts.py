"""Streams as vLLM 0.32 sends them, and what clients get of them, byte for byte.

``*.engine.sse`` are in the form of vLLM's (whole, killed with SIGKILL, while it shuts down, and
aborted); ``*.client.sse`` are what a client gets that did not ask for usage. To write those anew
after a change that is meant: ``HEADRACE_WRITE_GOLDEN=1 pytest tests/golden/gateway``.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.forward import BROKEN_EVENT
from gateway.sse import StreamMeter, Verdict

HERE = Path(__file__).parent
NAMES = sorted(path.name.removesuffix(".engine.sse") for path in HERE.glob("*.engine.sse"))

VERDICTS = {
    "served": Verdict.DONE,
    "killed": Verdict.FAILED,
    "shutting_down": Verdict.FAILED,
    "aborted": Verdict.FAILED,
}


def relayed(data: bytes, size: int, *, drop_usage: bool) -> tuple[bytes, StreamMeter]:
    meter = StreamMeter(drop_usage=drop_usage)
    out = b"".join(meter.feed(data[at : at + size]) for at in range(0, len(data), size))
    if meter.verdict is Verdict.OPEN:
        out += meter.ended()
    return out + (BROKEN_EVENT if meter.verdict is Verdict.FAILED else b""), meter


@pytest.mark.parametrize("size", [1, 64, 1 << 20], ids="pieces of {} bytes".format)
@pytest.mark.parametrize("name", NAMES)
def test_the_client_gets_what_it_got_before(name: str, size: int) -> None:
    data = (HERE / f"{name}.engine.sse").read_bytes()
    out, meter = relayed(data, size, drop_usage=True)
    golden = HERE / f"{name}.client.sse"
    if os.environ.get("HEADRACE_WRITE_GOLDEN"):
        golden.write_bytes(out)
    assert out == golden.read_bytes()
    assert meter.verdict is VERDICTS[name]


@pytest.mark.parametrize("name", NAMES)
def test_the_law_beside_it_only_whole_events_of_the_engine_or_our_error(name: str) -> None:
    data = (HERE / f"{name}.engine.sse").read_bytes()
    events = {event + b"\n\n" for event in data.split(b"\n\n") if event}
    for drop_usage in (True, False):
        out, meter = relayed(data, 7, drop_usage=drop_usage)
        got = [event + b"\n\n" for event in out.split(b"\n\n") if event]
        assert set(got) <= events | {BROKEN_EVENT}
        assert (got[-1] == b"data: [DONE]\n\n") == (meter.verdict is Verdict.DONE)


def test_a_client_that_asked_for_usage_gets_the_engines_bytes() -> None:
    data = (HERE / "served.engine.sse").read_bytes()
    out, _ = relayed(data, 50, drop_usage=False)
    assert out == data
