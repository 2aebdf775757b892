"""Targets for latency, and whether a request met them. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from headrace.core.record import ServedRecord


@dataclass(frozen=True, slots=True)
class SloTarget:
    """Upper limits in seconds; None means no target for that figure."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None


def attained(record: ServedRecord, target: SloTarget) -> bool:
    """Return whether a served request met every target; a request not served met none."""
    if not record.served:
        return False
    tpot_s = record.tpot_s
    return (
        (target.ttft_s is None or record.ttft_s <= target.ttft_s)
        and (target.tpot_s is None or tpot_s is None or tpot_s <= target.tpot_s)
        and (target.e2e_s is None or record.e2e_s <= target.e2e_s)
    )


def goodput_rps(records: Iterable[ServedRecord], target: SloTarget, span_s: float) -> float:
    """Return requests per second that met all their targets over ``span_s`` seconds."""
    if span_s <= 0:
        return 0.0
    return sum(attained(record, target) for record in records) / span_s
