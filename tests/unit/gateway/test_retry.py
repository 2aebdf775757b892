from __future__ import annotations

import pytest

from gateway.retry import Circuit, RetryReason, retry_reason
from headrace.core.errors import (
    EngineRefused,
    EngineTimeout,
    EngineUnreachable,
    HeadraceError,
    InvalidRequest,
    ModelNotFound,
    NoEndpoint,
    Overloaded,
    StreamBroken,
)
from headrace.core.ids import EndpointId

A, B = EndpointId("a"), EndpointId("b")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (EngineUnreachable("x"), RetryReason.UNREACHABLE),
        (EngineTimeout("x"), RetryReason.TIMEOUT),
        (EngineRefused("x"), RetryReason.REFUSED),
        (Overloaded("x"), RetryReason.BUSY),
        (NoEndpoint("x"), RetryReason.BUSY),
        (StreamBroken("x"), None),
        (InvalidRequest("x"), None),
        (ModelNotFound("x"), None),
        (HeadraceError("x"), None),
    ],
)
def test_only_failures_that_another_endpoint_may_not_share_are_retried(
    error: HeadraceError, reason: RetryReason | None
) -> None:
    assert retry_reason(error, attempts=1, limit=3, begun=False) is reason


def test_nothing_is_retried_after_the_first_byte() -> None:
    assert retry_reason(EngineRefused("x"), attempts=1, limit=3, begun=True) is None


def test_attempts_are_bounded() -> None:
    assert retry_reason(EngineRefused("x"), attempts=2, limit=3, begun=False) is not None
    assert retry_reason(EngineRefused("x"), attempts=3, limit=3, begun=False) is None


def test_rests_double_up_to_a_limit() -> None:
    circuit, now_s, rests = Circuit(first_s=1.0, most_s=4.0), 100.0, []
    for _ in range(4):
        circuit.failed(A, now_s)
        start_s = now_s
        while A in circuit.resting(now_s):
            now_s += 0.5
        rests.append(now_s - start_s)
    assert rests == [1.0, 2.0, 4.0, 4.0]


def test_failures_during_a_rest_do_not_lengthen_it() -> None:
    circuit = Circuit(first_s=1.0, most_s=4.0)
    for now_s in (0.0, 0.1, 0.2):
        circuit.failed(A, now_s)
    assert circuit.resting(0.9) == {A}
    assert circuit.resting(1.0) == frozenset()


def test_a_success_ends_the_rest() -> None:
    circuit = Circuit(first_s=1.0, most_s=4.0)
    circuit.failed(A, 0.0)
    circuit.failed(B, 0.0)
    circuit.succeeded(A)
    assert circuit.resting(0.5) == {B}


def test_endpoints_that_left_are_forgotten() -> None:
    circuit = Circuit(first_s=1.0, most_s=4.0)
    circuit.failed(A, 0.0)
    circuit.keep(frozenset({B}))
    assert circuit.resting(0.5) == frozenset()
