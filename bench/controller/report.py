"""From measurements to figures and goals. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from bench.controller.counts import Counts
from bench.controller.phases import Changed, Converged, Restarted, Rested
from bench.result import Goal
from headrace.service.kube.api import WRITES
from headrace.twin.report import percentile

GOALS: Final = (
    Goal("4", "change.p99_s", "<=", 2.0),
    Goal("4", "rest.writes", "==", 0.0),
    Goal("4", "rest.writes_served", "==", 0.0),
    Goal("4", "rest.objects_changed", "==", 0.0),
    Goal("4", "restart.writes_served", "==", 0.0),
)

NOTES: Final = (
    "a real API server, etcd, controller manager, scheduler and kwok share the machine's cores "
    "with the controller and the benchmark; others_ratio is the part of the busy CPU time that "
    "went to programs of none of them",
    "default settings (setup.writes_per_s and setup.workers are the limits in force), but for "
    "--no-lease: a lease would be renewed every 5 s, the only write of a quiet controller",
    "change.*_s: from the API server's answer to a change to the first pod made or told to go, as "
    "a watch of the benchmark's tells it; from_request counts from before the change was sent",
    "a change's calls, looks and CPU are all that followed until the service was complete again; "
    "a rollout exchanges 10 replicas, one more than wanted at a time",
    "storm: every service is scaled by one at the same moment",
    "the controller runs as the account of deploy/headrace.yaml; writes_served are that account's, "
    "counted by the API server (a FlowSchema of their own), objects_changed are objects of the "
    "kinds it writes whose resource version changed, whoever wrote them; writes are the "
    "controller's own count",
)

MIB: Final = 1 << 20


def converged(found: Converged) -> dict[str, float]:
    """Return the figures of the first phase."""
    return {
        "converge.services_made_s": found.made_s,
        "converge.pods_made_s": found.pods_s,
        "converge.complete_s": found.complete_s,
        "converge.last_write_s": found.quiet_s,
        **_used("converge", found.used),
        **_calls("converge", found.used, 1),
    }


def changed(kinds: Mapping[str, Changed]) -> dict[str, float]:
    """Return the figures of single changes, by kind and over all kinds."""
    figures: dict[str, float] = {}
    for kind, found in kinds.items():
        name = f"change.{kind}"
        count = len(found.answer_s)
        figures |= {f"{name}.changes": count, **latency(name, found.answer_s)}
        figures |= _calls(name, found.used, count)
        figures[f"{name}.cpu_ms"] = found.used.cpu_s / count * 1e3
        figures[f"{name}.looks"] = found.used.reconciles / count
        figures[f"{name}.others_ratio"] = found.used.others_ratio
    answers = [value for found in kinds.values() for value in found.answer_s]
    requests = [value for found in kinds.values() for value in found.request_s]
    figures |= {"change.changes": len(answers), **latency("change", answers)}
    return figures | latency("change.from_request", requests)


def storm(found: Changed) -> dict[str, float]:
    """Return the figures of changing every service at once."""
    return {
        **latency("storm", found.answer_s),
        **_used("storm", found.used),
    }


def rested(found: Rested) -> dict[str, float]:
    """Return the figures of the rest."""
    return {
        **_used("rest", found.used),
        "rest.objects_changed": found.objects_changed,
        "rest.cpu_percent": found.used.cpu_s / found.used.at_s * 100.0,
    }


def restarted(found: Restarted) -> dict[str, float]:
    """Return the figures of a new process."""
    return {
        "restart.first_look_s": found.first_look_s,
        "restart.all_looked_s": found.all_looked_s,
        "restart.cpu_s": found.used.cpu_s,
        "restart.writes": found.used.writes,
        "restart.reads": found.used.reads,
        "restart.writes_served": found.served,
        "restart.objects_changed": found.objects_changed,
    }


def latency(name: str, values_s: list[float]) -> dict[str, float]:
    """Return percentiles."""
    ordered = sorted(values_s)
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {f"{name}.{short}_s": percentile(ordered, share) for short, share in shares.items()}


def _used(name: str, used: Counts) -> dict[str, float]:
    return {
        f"{name}.wall_s": used.at_s,
        f"{name}.cpu_s": used.cpu_s,
        f"{name}.looks": used.reconciles,
        f"{name}.writes": used.writes,
        f"{name}.writes_served": used.served,
        f"{name}.reads": used.reads,
        f"{name}.others_ratio": used.others_ratio,
        **{f"{name}.plane_cpu_s.{part}": value for part, value in sorted(used.plane_s.items())},
    }


def _calls(name: str, used: Counts, per: int) -> dict[str, float]:
    """Return the writes, by what they do, and everything else in one."""
    said = {
        f"{name}.calls.{verb}_{resource.partition('.')[0]}"
        + ("_status" if resource.endswith("/status") else ""): count / per
        for (verb, resource), count in sorted(used.calls.items())
        if verb in WRITES
    }
    return {
        **said,
        f"{name}.calls.writes": used.writes / per,
        f"{name}.calls.reads": used.reads / per,
    }
