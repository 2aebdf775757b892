"""What a set of ended requests amounts to: latencies, hits, goodput. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from headrace.core.outcome import Outcome
from headrace.core.record import ServedRecord
from headrace.core.slo import SloTarget, attained
from headrace.simulator.trace import TraceRequest


@dataclass(frozen=True, slots=True)
class Spread:
    """How one latency was spread over the served requests, in seconds; NaN where there was none.

    Percentiles are nearest-rank: the value of one real request, never an interpolation.
    """

    mean_s: float
    p50_s: float
    p90_s: float
    p99_s: float


@dataclass(frozen=True, slots=True)
class Report:
    """One run of one workload, in engine seconds (wall seconds times the time scale).

    Attributes:
        name: What was run, as the reader will see it in a table.
        requests: Requests that ended, however they ended.
        outcomes: How many ended in each outcome, most frequent first.
        span_s: The time over which the workload offered them.
        ttft: Arrival to first token, of served requests; likewise ``tpot`` and ``e2e``.
        prompt_tokens: Prompt tokens of served requests; likewise the next two.
        hit_ratio: Cached over prompt tokens, as the engines reported them.
        ideal_hit_ratio: The same with one endless cache shared by the whole fleet.
        slo: The targets that goodput is judged by.
        goodput_rps: Requests per second of the span that met every target.

    """

    name: str
    requests: int
    outcomes: tuple[tuple[Outcome, int], ...]
    span_s: float
    ttft: Spread
    tpot: Spread
    e2e: Spread
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int
    ideal_hit_ratio: float
    slo: SloTarget
    goodput_rps: float

    @property
    def served(self) -> int:
        """Requests that got their whole reply."""
        return dict(self.outcomes).get(Outcome.SERVED, 0)

    @property
    def failed(self) -> int:
        """Requests that did not."""
        return self.requests - self.served

    @property
    def offered_rps(self) -> float:
        """Requests offered per second: the goodput of a fleet that never misses a target."""
        return self.requests / self.span_s if self.span_s > 0 else 0.0

    @property
    def attainment_ratio(self) -> float:
        """Share of all requests that met every target."""
        return self.goodput_rps / self.offered_rps if self.requests and self.span_s > 0 else 0.0

    @property
    def hit_ratio(self) -> float:
        """Cached over prompt tokens; 0 when nothing was served."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else 0.0


def summarise(
    name: str,
    records: Sequence[ServedRecord],
    *,
    slo: SloTarget,
    ideal_hit_ratio: float,
    span_s: float,
) -> Report:
    """Reduce ``records`` to one report; their order does not matter.

    Args:
        name: What the report will be called.
        records: Every request that ended, served or not.
        slo: Targets for goodput.
        ideal_hit_ratio: Of the same workload, from :func:`headrace.twin.ideal.ideal_hit_ratio`.
        span_s: From :func:`offered_span_s` of the same workload, so that runs which end late
            are not credited with a lower offered rate.

    """
    served = [record for record in records if record.served]
    counts = Counter(record.outcome for record in records)
    return Report(
        name=name,
        requests=len(records),
        outcomes=tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0]))),
        span_s=span_s,
        ttft=spread(record.ttft_s for record in served),
        tpot=spread(tpot for record in served if (tpot := record.tpot_s) is not None),
        e2e=spread(record.e2e_s for record in served),
        prompt_tokens=sum(record.usage.prompt_tokens for record in served),
        output_tokens=sum(record.usage.output_tokens for record in served),
        cached_tokens=sum(record.usage.cached_tokens for record in served),
        ideal_hit_ratio=ideal_hit_ratio,
        slo=slo,
        goodput_rps=sum(attained(record, slo) for record in records) / span_s
        if span_s > 0
        else 0.0,
    )


def spread(values: Iterable[float]) -> Spread:
    """Return the mean and the nearest-rank percentiles of ``values``; NaN for none."""
    ordered = sorted(values)
    if not ordered:
        return Spread(math.nan, math.nan, math.nan, math.nan)
    mean_s = math.fsum(ordered) / len(ordered)
    return Spread(
        mean_s, percentile(ordered, 0.50), percentile(ordered, 0.90), percentile(ordered, 0.99)
    )


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile of a non-empty ascending sequence, 0 < share <= 1."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def offered_span_s(workload: Sequence[TraceRequest]) -> float:
    """Return the seconds over which a workload, sorted by arrival, offers its requests.

    One mean gap is added to the time between first and last arrival, so that n requests at a
    steady rate r span n / r seconds.
    """
    if len(workload) < 2:
        return 0.0
    between_s = workload[-1].arrival_s - workload[0].arrival_s
    return between_s * len(workload) / (len(workload) - 1)


def figures(report: Report) -> dict[str, float]:
    """Return the report as flat numbers by name, for JSON; figures that do not exist are left out.

    Names carry their unit; latencies are ``ttft_mean_s``, ``ttft_p99_s`` and so on.
    """
    flat: dict[str, float] = {
        "requests": report.requests,
        "served": report.served,
        "failed": report.failed,
        "span_s": report.span_s,
        "offered_rps": report.offered_rps,
        "goodput_rps": report.goodput_rps,
        "attainment_ratio": report.attainment_ratio,
        "prompt_tokens": report.prompt_tokens,
        "output_tokens": report.output_tokens,
        "cached_tokens": report.cached_tokens,
        "hit_ratio": report.hit_ratio,
        "ideal_hit_ratio": report.ideal_hit_ratio,
    }
    for name, latency in (("ttft", report.ttft), ("tpot", report.tpot), ("e2e", report.e2e)):
        flat |= {
            f"{name}_mean_s": latency.mean_s,
            f"{name}_p50_s": latency.p50_s,
            f"{name}_p90_s": latency.p90_s,
            f"{name}_p99_s": latency.p99_s,
        }
    flat |= {f"outcome.{outcome}": count for outcome, count in report.outcomes}
    return {name: round(value, 6) for name, value in flat.items() if not math.isnan(value)}
