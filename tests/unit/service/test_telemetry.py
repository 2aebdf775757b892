from __future__ import annotations

import re

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from headrace.service.metrics import MAX_SERIES, OTHER, Counter, Family, MetricSpec
from headrace.service.telemetry import METRICS, Telemetry


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def samples(registry: CollectorRegistry) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = generate_latest(registry).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_what_is_counted_is_written_out(registry: CollectorRegistry) -> None:
    telemetry = Telemetry(registry)
    telemetry.counter("headrace_requests_total").labels("m", "served").inc(2)
    telemetry.gauge("headrace_inflight_requests").labels().set(3)
    telemetry.gauge("headrace_inflight_requests").labels().inc(-1)
    found = samples(registry)
    assert found[("headrace_requests_total", (("model", "m"), ("outcome", "served")))] == 2
    assert found[("headrace_inflight_requests", ())] == 2


def test_a_histogram_counts_at_or_below_each_bound(registry: CollectorRegistry) -> None:
    histogram = Telemetry(registry).histogram("headrace_ttft_seconds").labels("m")
    for value in (0.1, 0.1, 0.11, 1e9):
        histogram.observe(value)
    found = samples(registry)

    def bucket(bound: str) -> float:
        return found[("headrace_ttft_seconds_bucket", (("le", bound), ("model", "m")))]

    assert (bucket("0.08"), bucket("0.1"), bucket("0.25"), bucket("+Inf")) == (0, 2, 3, 4)
    assert found[("headrace_ttft_seconds_count", (("model", "m"),))] == 4
    assert found[("headrace_ttft_seconds_sum", (("model", "m"),))] == pytest.approx(1e9 + 0.31)


def test_series_are_bounded(registry: CollectorRegistry) -> None:
    family = Family(MetricSpec("x_total", "counter", "x", "x", ("a",)), Counter)
    for i in range(MAX_SERIES + 10):
        family.labels(str(i)).inc()
    assert len(list(family.series())) == MAX_SERIES + 1
    assert family.labels(OTHER).value == 10


def test_a_series_can_be_forgotten(registry: CollectorRegistry) -> None:
    family = Telemetry(registry).gauge("headrace_endpoint_inflight_requests")
    family.labels("e").set(1)
    family.forget("e")
    family.forget("never-known")
    assert not list(family.series())


def test_labels_must_be_those_of_the_table(registry: CollectorRegistry) -> None:
    with pytest.raises(AssertionError):
        Telemetry(registry).counter("headrace_requests_total").labels("m")


def test_two_holders_on_one_registry_are_refused(registry: CollectorRegistry) -> None:
    Telemetry(registry)
    telemetry = Telemetry(CollectorRegistry())
    with pytest.raises(KeyError):
        telemetry.counter("headrace_nothing_total")


def test_the_table_keeps_its_rules() -> None:
    names = [spec.name for spec in METRICS]
    assert len(set(names)) == len(names)
    for spec in METRICS:
        assert re.fullmatch(r"(headrace|gen_ai)_[a-z0-9_]+", spec.name)
        assert (spec.kind == "counter") == spec.name.endswith("_total")
        assert (spec.kind == "histogram") == bool(spec.buckets)
        assert list(spec.buckets) == sorted(set(spec.buckets))
        assert (spec.unit == "seconds") == spec.name.endswith("_seconds")
        assert not {"request_id", "url", "tenant"} & set(spec.labels)
        assert spec.help.endswith(".")
