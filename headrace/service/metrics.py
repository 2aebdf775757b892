"""Counters, gauges and histograms that cost tens of nanoseconds; read by Prometheus on scrape.

The Prometheus client's own take a lock and scan their buckets one by one, which at a dozen per
request is a tenth of a gateway's time. These belong to one event loop: not safe across threads.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Literal, TypeVar

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

MAX_SERIES: Final = 1_000
"""Label combinations kept per metric; later ones are counted together under ``OTHER``."""

OTHER: Final = "other"


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One row of the table of metrics.

    Attributes:
        name: As Prometheus sees it; counters end in ``_total``, durations in ``_seconds``.
        kind: What can be done with it.
        unit: What is counted or measured, in words.
        help: What it means to an operator.
        labels: Names of its labels; their values must come from a bounded set.
        buckets: Upper bounds of a histogram, ascending, without infinity.

    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


class Counter:
    """A number that only grows."""

    __slots__ = ("value",)

    def __init__(self, _spec: MetricSpec) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        """Add ``amount`` >= 0."""
        self.value += amount


class Gauge:
    """A number that goes up and down."""

    __slots__ = ("value",)

    def __init__(self, _spec: MetricSpec) -> None:
        self.value = 0.0

    def set(self, value: float) -> None:
        """Replace the value."""
        self.value = value

    def inc(self, amount: float = 1.0) -> None:
        """Add ``amount``, which may be negative."""
        self.value += amount


class Histogram:
    """Counts of observations by bucket, and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, spec: MetricSpec) -> None:
        self.bounds: Sequence[float] = spec.buckets
        self.counts = [0] * (len(spec.buckets) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one observation in the spec's unit."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def cumulative(self) -> list[tuple[str, float]]:
        """Return (upper bound as text, observations at or below it), ending with ``+Inf``."""
        total = 0
        rows: list[tuple[str, float]] = []
        for bound, count in zip([*map(str, self.bounds), "+Inf"], self.counts, strict=True):
            total += count
            rows.append((bound, float(total)))
        return rows


C = TypeVar("C", Counter, Gauge, Histogram)


class Family(Generic[C]):
    """One metric and its series, one per combination of label values."""

    def __init__(self, spec: MetricSpec, make: Callable[[MetricSpec], C]) -> None:
        self.spec = spec
        self._make: Callable[[MetricSpec], C] = make
        self._series: dict[tuple[str, ...], C] = {}

    def labels(self, *values: str) -> C:
        """Return the series of these label values, in the order of ``spec.labels``.

        Keep what is returned where it is used often. Beyond ``MAX_SERIES`` combinations the
        series called ``other`` is returned.
        """
        series = self._series.get(values)
        if series is None:
            assert len(values) == len(self.spec.labels), (self.spec.name, values)
            if len(self._series) >= MAX_SERIES:
                values = (OTHER,) * len(values)
            series = self._series.setdefault(values, self._make(self.spec))
        return series

    def forget(self, *values: str) -> None:
        """Drop a series whose subject is gone."""
        self._series.pop(values, None)

    def series(self) -> Iterable[tuple[tuple[str, ...], C]]:
        """Return every series by its label values, in order of the values."""
        return sorted(self._series.items(), key=lambda item: item[0])


def exported(family: Family[Counter] | Family[Gauge] | Family[Histogram]) -> Metric:
    """Return the family in the form that the Prometheus client writes out."""
    spec = family.spec
    if spec.kind == "histogram":
        histogram = HistogramMetricFamily(spec.name, spec.help, labels=spec.labels)
        for values, series in family.series():
            assert isinstance(series, Histogram)
            histogram.add_metric(values, series.cumulative(), series.sum)
        return histogram
    make = CounterMetricFamily if spec.kind == "counter" else GaugeMetricFamily
    metric = make(spec.name, spec.help, labels=spec.labels)
    for values, series in family.series():
        assert not isinstance(series, Histogram)
        metric.add_metric(values, series.value)
    return metric
