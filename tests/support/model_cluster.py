"""A cluster too simple to be wrong: it does what the actions say, and lets pods become ready."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from controller.api.model_service import ModelServiceSpec
from controller.models.pod import Images
from controller.models.reconcile import reconcile
from controller.models.state import (
    Action,
    Apply,
    Create,
    Decision,
    Delete,
    Observed,
    Owner,
    Replica,
    SetStatus,
)
from controller.models.status import memory_of
from controller.models.words import REVISION_LABEL, VARIANT_LABEL

IMAGES = Images("headrace:test", {})


def spec_of(**fields: Any) -> ModelServiceSpec:
    """Return a spec from its fields as users write them."""
    import orjson

    return ModelServiceSpec.model_validate_json(orjson.dumps(fields))


@dataclass
class ModelCluster:
    """Pods of one service. ``bad`` revisions never become ready."""

    spec: ModelServiceSpec
    now_s: float = 0.0
    generation: int = 1
    pods: dict[str, Replica] = field(default_factory=dict)
    others: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    bad_args: frozenset[str] = frozenset({"--broken"})
    made: int = 0
    images: dict[str, tuple[str, ...]] = field(default_factory=dict)
    kinds: frozenset[str] = frozenset({"Pod", "PodDisruptionBudget", "ControllerRevision"})

    def observed(self) -> Observed:
        """Return what a controller would see."""
        return Observed(
            owner=Owner("m", "default", "uid", self.generation),
            spec=self.spec,
            replicas=tuple(self.pods[name] for name in sorted(self.pods)),
            memory=memory_of(self.status),
            templates={
                o["data"]["revision"]: o["data"]["template"]
                for (kind, _), o in self.others.items()
                if kind == "ControllerRevision"
            },
            status=self.status,
            others=dict(self.others),
            kinds=self.kinds,
        )

    def decide(self, observed: Observed | None = None) -> Decision:
        """Return what the controller would do now, or would have done at an older sight."""
        return reconcile(observed or self.observed(), IMAGES, self.now_s, f"t{self.now_s}")

    def do(self, actions: Iterable[Action]) -> None:
        """Take effect, as the API server would."""
        for action in actions:
            match action:
                case Create(manifest) if manifest["kind"] == "Pod":
                    self._create(manifest)
                case Create(manifest) | Apply(manifest):
                    self.made += 1
                    key = (manifest["kind"], manifest["metadata"]["name"])
                    stored = {
                        **manifest,
                        "metadata": {**manifest["metadata"], "uid": f"o{self.made}"},
                    }
                    if isinstance(action, Apply) or key not in self.others:
                        self.others[key] = stored
                case Delete(kind, name, uid) if kind == "Pod":
                    if name in self.pods and self.pods[name].uid == uid:
                        self.pods[name] = replace(self.pods[name], ending=True)
                case Delete(kind, name, uid):
                    if (kind, name) in self.others:
                        assert self.others[kind, name]["metadata"]["uid"] == uid
                        del self.others[kind, name]
                case SetStatus(status):
                    self.status = dict(status)

    def _create(self, manifest: Any) -> None:
        name = manifest["metadata"]["name"]
        if name in self.pods:
            return
        self.made += 1
        labels = manifest["metadata"]["labels"]
        self.images[labels[REVISION_LABEL]] = tuple(manifest["spec"]["containers"][0]["args"])
        self.pods[name] = Replica(
            name,
            f"u{self.made}",
            labels[VARIANT_LABEL],
            labels[REVISION_LABEL],
            created_s=self.now_s,
        )

    def is_bad(self, pod: Replica) -> bool:
        """Whether a pod can never be ready."""
        return bool(self.bad_args & set(self.images[pod.revision]))

    def become_ready(self, name: str) -> None:
        """Let a pod's engine answer, if it ever will."""
        pod = self.pods[name]
        if not (self.is_bad(pod) or pod.ending or pod.failed):
            since_s = pod.ready_since_s if pod.ready else self.now_s
            self.pods[name] = replace(pod, ready=True, ready_since_s=since_s)

    def go(self, name: str) -> None:
        """Let a pod that is ending be gone."""
        if self.pods[name].ending:
            del self.pods[name]

    def ready(self) -> int:
        """Return how many pods serve."""
        return sum(pod.ready and not pod.ending for pod in self.pods.values())

    def alive(self) -> list[Replica]:
        """Return pods that have not been told to go."""
        return [pod for pod in self.pods.values() if not pod.ending]

    def settle(self, rounds: int = 200) -> None:
        """Decide and act until nothing is to be done; pods become ready and go at once."""
        for _ in range(rounds):
            decision = self.decide()
            self.do(decision.actions)
            for name in list(self.pods):
                self.become_ready(name)
                self.go(name)
            if not self.decide().actions:
                again = self.decide().again_s
                if again is None:
                    return
                self.now_s += again
        raise AssertionError("it does not settle")
