"""A decision between one endpoint and a pair, in words."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from headrace.cli.explained import told
from headrace.core.ids import EndpointId
from router.record import replay
from tests.support.recorded import candidate, recorded, request


def explained(decoding: int) -> str:
    alone = replace(candidate("d"), decoding=decoding)
    pair = replace(alone, prefill_id=EndpointId("p"), transfer_ms=40.0)
    record = recorded(replace(request(), may_split=True), (alone, pair))
    out = io.StringIO()
    told(record, replay(record), None, None).print(Console(file=out, width=200), top=5)
    return out.getvalue()


def test_a_pair_is_named_by_both_and_told_apart_from_its_second() -> None:
    text = explained(decoding=30)
    assert "to p > d of 2" in text
    assert "p > d won with" in text
    assert "less decode" in text
    assert "re-run: identical" in text


def test_one_endpoint_that_wins_over_a_pair_is_named_alone() -> None:
    text = explained(decoding=0)
    assert "to d of 2" in text
    assert "d won with" in text
    assert "for p > d" in text
