from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from gateway.accounting import Account, Accounts
from headrace.core.ids import ModelName
from headrace.core.outcome import Outcome
from headrace.core.record import Usage
from headrace.service.telemetry import Telemetry


class Lines:
    def __init__(self) -> None:
        self.rows: list[dict[str, object]] = []

    def write(self, event: str, fields: dict[str, object]) -> None:
        assert event == "request"
        self.rows.append(fields)


def streamed() -> Account:
    return Account(
        "r",
        10.0,
        "chat",
        model=ModelName("m"),
        asked_model="m",
        stream=True,
        dispatched_s=10.1,
        first_s=10.5,
        predicted_ttft_s=0.3,
        usage=Usage(100, 11, 64),
    )


def test_a_served_stream_is_counted_in_every_figure() -> None:
    telemetry, lines = Telemetry(CollectorRegistry()), Lines()
    Accounts(telemetry, lines).close(streamed(), Outcome.SERVED, 12.5)
    assert telemetry.counter("headrace_requests_total").labels("m", "served").value == 1
    for name, value in (
        ("headrace_ttft_seconds", 0.5),
        ("headrace_tpot_seconds", 0.2),
        ("headrace_e2e_seconds", 2.5),
        ("gen_ai_server_time_to_first_token_seconds", 0.5),
        ("gen_ai_server_time_per_output_token_seconds", 0.2),
        ("headrace_router_predicted_ttft_error_seconds", 0.1),
    ):
        histogram = telemetry.histogram(name).labels("m")
        assert sum(histogram.counts) == 1
        assert histogram.sum == pytest.approx(value)
    for name, count in (("prompt", 100), ("cached", 64), ("output", 11)):
        assert telemetry.counter(f"headrace_{name}_tokens_total").labels("m").value == count
    (row,) = lines.rows
    assert row["queue_s"] == pytest.approx(0.1)
    assert row["tpot_s"] == pytest.approx(0.2)
    assert row["outcome"] == "served"


def test_a_request_that_failed_has_no_latency() -> None:
    telemetry = Telemetry(CollectorRegistry())
    Accounts(telemetry, None).close(streamed(), Outcome.ENGINE_FAILED, 12.5)
    assert sum(telemetry.histogram("headrace_e2e_seconds").labels("m").counts) == 0
    assert telemetry.counter("headrace_output_tokens_total").labels("m").value == 11


def test_a_request_is_closed_once() -> None:
    accounts = Accounts(Telemetry(CollectorRegistry()), None)
    account = streamed()
    accounts.close(account, Outcome.SERVED, 12.0)
    with pytest.raises(AssertionError):
        accounts.close(account, Outcome.SERVED, 12.0)
    assert accounts.closed == 1
