"""Finds the API server and the account to use: a kubeconfig, or the pod we run in. Reads files."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from headrace.core.errors import ConfigError
from headrace.service.kube.api import Api, ApiLimits, Call, Server
from headrace.service.kube.errors import KubeForbidden, KubeNotFound
from headrace.service.kube.resource import Resource

if TYPE_CHECKING:
    from kubernetes.aio.client import Configuration

SERVICE_HOST: Final = "KUBERNETES_SERVICE_HOST"
"""Set by Kubernetes in every container."""

_MALFORMED: Final = (OSError, ValueError, TypeError, AttributeError, KeyError, yaml.YAMLError)
"""What the library fails with on files that are not as they should be."""

_NOT_FOUND: Final = (
    "no Kubernetes: we do not run in a pod, and there is no kubeconfig at {paths}; "
    "name one with --kubeconfig"
)


async def open_api(
    kubeconfig: Path | None = None,
    context: str | None = None,
    limits: ApiLimits | None = None,
) -> Api:
    """Return a client; whoever asks closes it. Nothing is sent yet.

    Without a path, the account of the pod we run in is used, then ``$KUBECONFIG``, then
    ``~/.kube/config``. Where the server no longer knows the account (a token that expired), all of
    it is read again, and commands that make tokens are run again.

    Args:
        kubeconfig: A file, or None to look for one.
        context: Of the kubeconfig; None takes its current one.
        limits: Of the client.

    Raises:
        ConfigError: if there is neither, it cannot be used, or ``headrace[kube]`` is missing.

    """
    load = _loader(kubeconfig, context)
    account = _Account(load, await load())
    return Api(account.server(), account.authorize, limits or ApiLimits())


async def served(api: Api, resource: Resource, namespace: str = "") -> bool:
    """Return whether the server knows the kind: its definition may not be installed.

    Args:
        api: The client.
        resource: The kind.
        namespace: Where we may list it, if not everywhere.

    Raises:
        KubeError: if the server does not say.

    """
    try:
        await api.send(Call("list", resource, namespace), params={"limit": "1"})
    except KubeNotFound:
        return False
    return True


__all__ = ["Api", "open_api", "served"]

_Load = Callable[[], Awaitable["Configuration"]]


class _Account:
    """What a configuration says, and how to read it again."""

    def __init__(self, load: _Load, configuration: Configuration) -> None:
        self._load = load
        self._configuration: Any = configuration

    def server(self) -> Server:
        from kubernetes.aio.client.rest import RESTClientObject  # noqa: PLC0415 -- optional

        said = self._configuration
        try:
            tls = RESTClientObject(said).ssl_context
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise ConfigError(f"kubeconfig: certificates cannot be used: {error}") from None
        return Server(said.host.rstrip("/"), tls, said.tls_server_name, said.proxy)

    async def authorize(self, fresh: bool) -> str | None:
        from kubernetes.aio.config import ConfigException  # noqa: PLC0415 -- optional

        try:
            if fresh:
                self._configuration = await self._load()
            header = await self._configuration.get_api_key_with_prefix(
                "BearerToken", alias="authorization"
            )
        except (ConfigError, ConfigException, *_MALFORMED) as error:
            raise KubeForbidden(f"the account cannot be read: {error}", status=401) from None
        return None if header is None else str(header).strip()


def _loader(kubeconfig: Path | None, context: str | None) -> _Load:
    try:
        from kubernetes.aio import config  # noqa: PLC0415 -- optional, and slow to import
        from kubernetes.aio.client import Configuration  # noqa: PLC0415
    except ImportError:
        raise ConfigError("Kubernetes needs `pip install headrace[kube]`") from None
    paths = "" if kubeconfig is None and os.environ.get(SERVICE_HOST) else _paths(kubeconfig)

    async def load() -> Configuration:
        made = Configuration()
        try:
            if paths:
                await config.load_kube_config(
                    config_file=paths,
                    context=context,
                    client_configuration=made,
                    persist_config=False,
                )
            else:
                config.load_incluster_config(client_configuration=made)
        except (config.ConfigException, *_MALFORMED) as error:
            raise ConfigError(f"{paths or 'the account of this pod'}: {error}") from None
        return made

    return load


def _paths(kubeconfig: Path | None) -> str:
    """Return the kubeconfig to read; several are joined as in ``$KUBECONFIG``."""
    if kubeconfig is not None:
        if not kubeconfig.is_file():
            raise ConfigError(f"kubeconfig: no file {kubeconfig}")
        return str(kubeconfig)
    default = str(Path.home() / ".kube" / "config")
    paths = os.environ.get("KUBECONFIG") or default
    if not any(Path(path).expanduser().is_file() for path in paths.split(os.pathsep) if path):
        raise ConfigError(_NOT_FOUND.format(paths=paths))
    return paths
