"""Looks at one service, decides, acts. The controller's shell."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from controller.acting import Acting
from controller.api.model_service import ModelServiceSpec
from controller.api.problems import parse
from controller.models.observe import cluster_as_replica, observe, pod_as_replica
from controller.models.pod import Images
from controller.models.reconcile import reconcile
from controller.sight import OWNED, Sight
from headrace.core.clock import Clock
from headrace.service.kube.resource import PODS, RAY_CLUSTERS, Key
from headrace.service.log import get_logger
from headrace.service.telemetry import Telemetry

_log = get_logger("controller")


class Loop:
    """Works on services; ``look`` is what a work queue calls.

    Args:
        sight: What is there.
        acting: Carries decisions out.
        images: What runs where specs name none.
        clock: For measuring.
        epoch_s: Seconds since 1970, which the API server's times are compared with.
        telemetry: Where it is counted.

    """

    def __init__(
        self,
        sight: Sight,
        acting: Acting,
        images: Images,
        *,
        clock: Clock,
        epoch_s: Callable[[], float],
        telemetry: Telemetry,
    ) -> None:
        self._sight = sight
        self._acting = acting
        self._images = images
        self._clock = clock
        self._epoch_s = epoch_s
        self._reconciles = telemetry.counter("headrace_reconciles_total")
        self._seconds = telemetry.histogram("headrace_reconcile_seconds").labels()

    async def look(self, key: Key) -> float | None:
        """Do all there is to do for one service; return in how many seconds to look again.

        Raises:
            KubeError: at the first call that fails; the rest is decided anew.

        """
        started_s = self._clock.now_s()
        result = "failed"
        try:
            again_s = await self._look(key)
            result = "done"
            return again_s
        finally:
            self._reconciles.labels(result).inc()
            self._seconds.observe(self._clock.now_s() - started_s)

    async def _look(self, key: Key) -> float | None:
        service = self._sight.services.items.get(key)
        if service is None or "deletionTimestamp" in service["metadata"]:
            return None  # what it owned goes with it: Kubernetes collects it
        problems, spec = parse(ModelServiceSpec, service["spec"])
        if spec is None or problems:
            # The API server refuses such specs; one stored under an older schema can still exist.
            reasons = [str(problem) for problem in problems]
            _log.warning("bad_spec", namespace=key[0], service=key[1], problems=reasons)
            return None
        service = self._acting.statuses.known(service)
        uid = service["metadata"]["uid"]
        others = [
            (kind.kind, obj)
            for kind in OWNED
            if kind not in (PODS, RAY_CLUSTERS)
            for obj in self._sight.of(kind, key, uid)
        ]
        heads = self._sight.heads(key)
        replicas = [
            *map(pod_as_replica, self._sight.of(PODS, key, uid)),
            *(
                cluster_as_replica(cluster, heads.get(cluster["metadata"]["name"]))
                for cluster in self._sight.of(RAY_CLUSTERS, key, uid)
            ),
        ]
        kinds = frozenset(kind.kind for kind in self._sight.kinds)
        observed = observe(service, spec, replicas, others, kinds)
        now_s = self._epoch_s()
        at = datetime.fromtimestamp(now_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        decision = reconcile(observed, self._images, now_s, at)
        await self._acting.act(service, decision.actions)
        return decision.again_s
