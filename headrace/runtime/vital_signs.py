"""Whether an endpoint may serve, from what was seen of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from headrace.core.endpoint import EngineLoad, Health, ModelFiles, Speed
from headrace.core.ids import ModelName
from headrace.runtime.metrics_text import EngineReport


class Sight(StrEnum):
    """What one look at an endpoint showed."""

    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    REFUSED = "refused"
    STUCK = "stuck"


@dataclass(frozen=True, slots=True)
class VitalSigns:
    """What is known of one endpoint.

    Attributes:
        proven: It has generated a token since it was last down.
        failures: Looks in a row that failed.
        models: Names it serves, base model first.
        files: Where their files lie, in the same order.
        load: Its last report.
        speed: As measured; None before.
        progress: Its count of work done at the last look.
        moved_at_s: When that count last grew, or nothing was running.

    """

    proven: bool = False
    failures: int = 0
    models: tuple[ModelName, ...] = ()
    files: tuple[ModelFiles | None, ...] = ()
    load: EngineLoad | None = None
    speed: Speed | None = None
    progress: int = -1
    moved_at_s: float = 0.0

    @property
    def health(self) -> Health:
        """READY once proven: an answer on ``/health`` alone does not show that tokens come."""
        return Health.READY if self.proven and self.models else Health.DOWN

    @property
    def needs_proof(self) -> bool:
        """Whether the next thing to do is to ask it for a token."""
        return not self.proven and self.failures == 0 and bool(self.models)


def saw(signs: VitalSigns, sight: Sight, failures_to_down: int) -> VitalSigns:
    """Return ``signs`` after one more look; one that goes down must prove itself again.

    A refused connection means that no process listens there, and being stuck has taken its time
    already: neither is forgiven.
    """
    if sight is Sight.HEALTHY:
        return replace(signs, failures=0)
    failures = signs.failures + 1 if sight is Sight.UNHEALTHY else failures_to_down
    if failures >= failures_to_down:
        return replace(
            signs, proven=False, failures=min(failures, failures_to_down), models=(), load=None
        )
    return replace(signs, failures=failures)


def reported(signs: VitalSigns, report: EngineReport, at_s: float) -> VitalSigns:
    """Return ``signs`` with what the engine's metrics said at ``at_s``."""
    moved = report.progress != signs.progress or not report.running
    return replace(
        signs,
        load=report.load(at_s) or signs.load,
        progress=report.progress,
        moved_at_s=at_s if moved else signs.moved_at_s,
    )


def stuck(signs: VitalSigns, now_s: float, stall_s: float) -> bool:
    """Return whether an engine has requests running and has done nothing for ``stall_s``.

    vLLM answers ``/health`` with 200 and ``/metrics`` with old numbers while its core hangs.
    """
    return signs.progress >= 0 and now_s - signs.moved_at_s >= stall_s


def measured_speed(
    presumed: Speed, tokens: int, elapsed_s: float, floor_s: float, kv_tokens: int | None
) -> Speed:
    """Return how fast an idle endpoint computed one prompt.

    Args:
        presumed: What is kept where nothing was measured.
        tokens: Length of the prompt, none of it cached; 0 when none was sent.
        elapsed_s: From the request to its only token.
        floor_s: The same for a prompt of a few tokens, which is what any request costs.
        kv_tokens: What the engine says its KV cache holds, or None.

    """
    rate = presumed.prefill_tokens_per_s
    if tokens > 0 and elapsed_s > 0:
        # A long prompt that took hardly longer than a short one says "fast", not "infinitely fast":
        # at least a tenth of the time is taken to be computation.
        rate = tokens / max(elapsed_s - floor_s, elapsed_s / 10)
    return replace(presumed, prefill_tokens_per_s=rate, kv_tokens=kv_tokens or presumed.kv_tokens)
