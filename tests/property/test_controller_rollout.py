"""Whatever happens in whatever order, a rollout keeps its limits and ends."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from controller.api.model_service import ModelServiceSpec
from controller.models.state import Observed
from tests.support.model_cluster import ModelCluster, spec_of


class Rollouts(RuleBasedStateMachine):
    """Specs change, pods come, break and go, the controller sees old state and dies half-way."""

    @initialize(replicas=st.integers(0, 4), surge=st.integers(1, 2), less=st.integers(0, 1))
    def begin(self, replicas: int, surge: int, less: int) -> None:
        self.limits = {"maxSurge": surge, "maxUnavailable": less}
        self.args: list[str] = []
        self.replicas = replicas
        self.cluster = ModelCluster(self._spec())
        self.stale: Observed = self.cluster.observed()
        self.cluster.settle()

    def _spec(self) -> ModelServiceSpec:
        return spec_of(
            replicas=self.replicas, rollout=self.limits, engine={"args": list(self.args)}
        )

    @rule(args=st.sampled_from([[], ["--a"], ["--b"], ["--broken"]]))
    def change_the_template(self, args: list[str]) -> None:
        self.args = args
        self.cluster.spec = self._spec()

    @rule(replicas=st.integers(0, 4))
    def scale(self, replicas: int) -> None:
        self.replicas = replicas
        self.cluster.spec = self._spec()

    @rule(part=st.floats(0, 1))
    def act_and_die_half_way(self, part: float) -> None:
        actions = self.cluster.decide().actions
        ready = self.cluster.ready()
        self.cluster.do(actions[: round(len(actions) * part)])
        self._kept(ready)

    @rule()
    def look_away(self) -> None:
        self.stale = self.cluster.observed()

    @rule()
    def act_twice_on_the_same_sight(self) -> None:
        seen = self.cluster.observed()
        ready = self.cluster.ready()
        self.cluster.do(self.cluster.decide(seen).actions)
        self.cluster.do(self.cluster.decide(seen).actions)
        self._kept(ready)

    def _kept(self, ready_before: int) -> None:
        least = self.replicas - self.limits["maxUnavailable"]
        assert self.cluster.ready() >= min(ready_before, least), "it took one too many"

    @rule(data=st.data())
    def one_becomes_ready(self, data: st.DataObject) -> None:
        if self.cluster.pods:
            self.cluster.become_ready(data.draw(st.sampled_from(sorted(self.cluster.pods))))

    @rule(data=st.data())
    def one_is_lost(self, data: st.DataObject) -> None:
        if self.cluster.pods:
            name = data.draw(st.sampled_from(sorted(self.cluster.pods)))
            self.cluster.pods[name] = replace(self.cluster.pods[name], failed=True, ready=False)

    @rule(seconds=st.sampled_from([1, 600, 2_000]))
    def time_passes(self, seconds: int) -> None:
        self.cluster.now_s += seconds
        for name in list(self.cluster.pods):
            self.cluster.go(name)

    @invariant()
    def never_more_than_the_surge_is_made(self) -> None:
        if not hasattr(self, "cluster"):
            return
        before = len(self.cluster.alive())
        made = [
            a
            for a in self.cluster.decide().actions
            if getattr(a, "manifest", {}).get("kind") == "Pod"
        ]
        if made:
            broken = sum(pod.failed for pod in self.cluster.alive())
            assert before - broken + len(made) <= self.replicas + self.limits["maxSurge"]

    def teardown(self) -> None:
        if not hasattr(self, "cluster"):
            return
        self.cluster.settle()
        assert self.cluster.decide().actions == (), "at rest there is nothing to do"
        if "--broken" not in self.args:
            assert self.cluster.ready() == self.replicas


Rollouts.TestCase.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
TestRollouts = Rollouts.TestCase
