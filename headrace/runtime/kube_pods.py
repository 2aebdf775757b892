"""Follows the pods of a cluster and keeps them as a list of endpoints. Opens sockets.

While the API server is away the last list stays in force.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from typing_extensions import override

from headrace.core.endpoint import EndpointView
from headrace.core.ids import EndpointId
from headrace.runtime.discovery import EndpointSource, ListSource
from headrace.runtime.pods import NOTHING, SERVICE_LABEL, sighting, slim
from headrace.service.kube.api import Api
from headrace.service.kube.reflector import Reflector, ReflectorLimits
from headrace.service.kube.resource import PODS, Key
from headrace.service.log import get_logger

_log = get_logger("pods")


class PodSource(EndpointSource):
    """The pods that carry a label, as endpoints; up to date while ``run`` runs.

    Args:
        api: The API server.
        namespace: Where the pods are; None is everywhere.
        label_selector: Which of them, as in ``kubectl get -l``.
        limits: Bounds on following them.

    """

    def __init__(
        self,
        api: Api,
        namespace: str | None = None,
        label_selector: str = SERVICE_LABEL,
        limits: ReflectorLimits | None = None,
    ) -> None:
        self._reflector = Reflector(
            api,
            PODS,
            namespace=namespace,
            label_selector=label_selector,
            on_change=self._look,
            transform=slim,
            limits=limits,
        )
        self._list = ListSource()
        self._problems: dict[Key, str] = {}

    @override
    def endpoints(self) -> list[EndpointView]:
        return self._list.endpoints()

    @override
    async def changed(self) -> None:
        await self._list.changed()

    @property
    @override
    def away(self) -> bool:
        return self._reflector.away

    @property
    def problems(self) -> Mapping[Key, str]:
        """What is wrong with pods that should be endpoints and are not."""
        return MappingProxyType(self._problems)

    async def synced(self) -> None:
        """Wait until every pod has been listed once."""
        await self._reflector.synced()

    async def run(self) -> None:
        """Follow the API server until cancelled."""
        await self._reflector.run()

    def _look(self, key: Key) -> None:
        pod = self._reflector.items.get(key)
        seen = NOTHING if pod is None else sighting(pod)
        if seen.view is None:
            self._list.remove(EndpointId("/".join(key)))
        else:
            self._list.put(seen.view)
        if not seen.problem:
            self._problems.pop(key, None)
        elif self._problems.get(key) != seen.problem:
            self._problems[key] = seen.problem
            _log.warning("pod_unusable", pod="/".join(key), why=seen.problem)
