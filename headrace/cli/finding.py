"""Where a gateway's engines are found: one source for each ``discovery.kind``. Opens what it needs.

All but a list are followed: their sources have tasks that must run.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

from controller.fleets.ray.config import RaySettings
from headrace.cli.config import FrontSettings
from headrace.cli.finding_config import DiscoverySettings
from headrace.cli.serving import needs_ray
from headrace.core.errors import ConfigError
from headrace.runtime.discovery import EndpointSource, StaticSource
from headrace.runtime.file_source import FileSource
from headrace.runtime.kube_adapters import AdapterObjects
from headrace.runtime.kube_pods import PodSource
from headrace.runtime.socket_source import SocketSource
from headrace.service.clock import RealClock
from headrace.service.kube.api import Api
from headrace.service.kube.connect import open_api, served
from headrace.service.kube.errors import KubeError
from headrace.service.kube.resource import LORA_ADAPTERS
from headrace.service.log import get_logger

_log = get_logger("gateway")

Work = tuple[str, Callable[[], Awaitable[None]]]


@dataclass(frozen=True, slots=True)
class Found:
    """Where the engines come from.

    Attributes:
        source: Lists them.
        place: Where they are looked for, for people.
        tasks: What must run for the list to be followed, by name; none: it never changes.
        synced: Waits until the list has been had once.
        adapters: Which adapters there are, where the source knows.

    """

    source: EndpointSource
    place: str
    tasks: tuple[Work, ...] = ()
    synced: Callable[[], Awaitable[None]] | None = None
    adapters: AdapterObjects | None = None

    @property
    def followed(self) -> bool:
        """Whether engines may come and go."""
        return bool(self.tasks)


@asynccontextmanager
async def found(settings: FrontSettings) -> AsyncIterator[Found]:
    """Open the source that the settings name, and close it in the end.

    Raises:
        ConfigError: when there is none of that kind here.

    """
    how = settings.discovery
    if how.kind == "list":
        listed = StaticSource(endpoint.view() for endpoint in settings.endpoints)
        yield Found(listed, f"{len(settings.endpoints)} engine(s)")
    elif how.kind == "file":
        yield await _in_file(_path(how))
    elif how.kind == "socket":
        yield _at_socket(_path(how))
    elif how.kind == "ray":
        async with _on_ray(how) as on_ray:
            yield on_ray
    else:
        async with await open_api(how.kubeconfig, how.context) as api:
            yield await _in_cluster(settings, api)


def _path(how: DiscoverySettings) -> Path:
    assert how.path is not None
    return how.path


async def _in_file(path: Path) -> Found:
    source = FileSource(path, RealClock())
    try:
        await source.load()
    except ConfigError as error:
        raise ConfigError(f"discovery.path: {error}") from None
    return Found(source, f"what {path} lists", (("endpoints-file", source.run),))


def _at_socket(path: Path) -> Found:
    source = SocketSource(path, RealClock(), Random())
    tasks = (("endpoints-socket", source.run),)
    return Found(source, f"the engines of the fleet at {path}", tasks, source.synced)


@asynccontextmanager
async def _on_ray(how: DiscoverySettings) -> AsyncIterator[Found]:
    with needs_ray("discovery.kind"):
        from controller.fleets.ray.source import RaySource  # noqa: PLC0415 -- an extra, and slow
    async with RaySource(how.address, how.fleet, RaySettings(), RealClock()) as source:
        tasks = (("endpoints-ray", source.run),)
        yield Found(source, f"the engines of fleet {how.fleet} on Ray", tasks, source.synced)


async def _in_cluster(settings: FrontSettings, api: Api) -> Found:
    how = settings.discovery
    pods = PodSource(api, how.namespace or None, how.label_selector)
    adapters = await _adapters(settings, api)
    where = f"namespace {how.namespace}" if how.namespace else "all namespaces"
    tasks = (("pods", pods.run), *(adapters.tasks() if adapters is not None else ()))
    place = f"pods with {how.label_selector} in {where}"
    return Found(pods, place, tasks, pods.synced, adapters)


async def _adapters(settings: FrontSettings, api: Api) -> AdapterObjects | None:
    namespace = settings.discovery.namespace
    try:
        known = await served(api, LORA_ADAPTERS, namespace)
    except KubeError:
        known = True  # away, or not ours to see: the watches will tell
    if not known:
        _log.info("no_adapter_objects", why="the cluster has no definition of LoraAdapter")
        return None
    return AdapterObjects(api, namespace or None, settings.gateway.adapters.specs())
