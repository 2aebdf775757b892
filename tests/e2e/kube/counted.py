"""What the suite counts, and what it is judged by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bench.result import Goal, Result, write_result
from tests.e2e.kube.load import Counts

PARTS = (
    *("scale", "rollout", "bad_revision", "node_lost", "apiserver"),
    *("vllm_rollout", "ray_scale"),
)
"""What happens under load."""

GOALS = (
    Goal("1", "apply_to_first_token_s", "<=", 60),
    *(
        Goal("1", f"{part}.{count}_requests", "==", 0)
        for part in PARTS
        for count in ("failed", "cut")
    ),
    Goal("1", "controller_kills.converged", "==", 20),
    Goal("1", "left_behind.objects", "==", 0),
    Goal("6", "bad_specs.worded_alike_ratio", "==", 1.0),
)


@dataclass
class Counted:
    """Figures by name; written only when every part has been counted."""

    figures: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def streams(self, part: str, counts: Counts) -> None:
        """Enter how the streams of one part ended."""
        self.figures[f"{part}.requests"] = counts.requests
        self.figures[f"{part}.failed_requests"] = counts.ends["failed"]
        self.figures[f"{part}.cut_requests"] = counts.ends["cut"]

    def write(self) -> None:
        """Write the result, if the whole suite ran."""
        if not self._is_whole(self.figures):
            return
        write_result(
            Result(
                name="e2e-kube",
                question="Does a real cluster keep its models served through scaling, rollouts and "
                "failures, with no request failed and no stream cut?",
                command="make e2e-kube",
                figures=self.figures,
                goals=GOALS,
                notes=(
                    "Simulated engines on two real nodes (kubelet and containerd) of one machine "
                    "with a real control plane of Kubernetes 1.34.",
                    *self.notes,
                ),
            )
        )

    @staticmethod
    def _is_whole(figures: Mapping[str, float]) -> bool:
        return all(goal.figure in figures for goal in GOALS)
