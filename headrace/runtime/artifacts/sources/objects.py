"""Artifacts in object stores and on the model hub, through fsspec. Touches the network, in threads.

The vendors' clients are an extra, ``headrace[artifacts]``, imported when a source first needs one.
They find credentials where they always do: AWS_*, GOOGLE_APPLICATION_CREDENTIALS, HF_TOKEN.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from functools import partial
from importlib import import_module
from types import MappingProxyType
from typing import Any, Final, TypeVar

from typing_extensions import override

from headrace.core.errors import ArtifactError
from headrace.runtime.artifacts.allowed import Uri
from headrace.runtime.artifacts.config import ArtifactSettings
from headrace.runtime.artifacts.source import RemoteFile, Source

T = TypeVar("T")

CLIENTS: Final[Mapping[str, str]] = MappingProxyType(
    {"s3": "s3fs", "gs": "gcsfs", "hf": "huggingface-hub"}
)
"""Distribution that brings each scheme's client."""

READ_BYTES: Final = 4 << 20
"""Asked for at once; a connection that breaks costs no more."""

VERSIONS: Final = ("ETag", "etag", "generation", "crc32c", "md5Hash", "blob_id", "LastModified")
"""What tells one version of an object from another, by store, best first."""

GONE: Final = (FileNotFoundError, PermissionError, NotADirectoryError)
"""What another attempt would not change."""


ERRORS: Final[Mapping[str, tuple[tuple[str, str], ...]]] = MappingProxyType(
    {
        "s3": (("botocore.exceptions", "BotoCoreError"), ("aiohttp", "ClientError")),
        "gs": (("google.auth.exceptions", "GoogleAuthError"), ("aiohttp", "ClientError")),
        "hf": (("httpx", "HTTPError"),),
    }
)
"""What each client raises besides OSError."""


class ObjectSource(Source):
    """A prefix of a bucket, a folder of a repository, or one object."""

    def __init__(self, uri: Uri, settings: ArtifactSettings) -> None:
        self._uri = uri
        self._root = "/".join((uri.host, *uri.path))
        self._settings = settings
        self._client: Any = None
        self._paths: dict[str, str] = {}

    @override
    async def files(self) -> tuple[RemoteFile, ...]:
        found = await self._do(self._find)
        listed = []
        for path, info in found.items():
            if info.get("type") == "file":
                name = path.rpartition("/")[2] if path == self._root else self._below(path)
                self._paths[name] = path
                listed.append(_described(name, info))
        return tuple(listed)

    @override
    async def read(self, file: RemoteFile, start: int, stop: int) -> AsyncIterator[bytes]:
        path = self._paths[file.path]
        while start < stop:
            block = await self._do(partial(self._block, path, start, min(start + READ_BYTES, stop)))
            if not block:
                raise ArtifactError(f"{path}: ended at byte {start}", retry_safe=True)
            start += len(block)
            yield block

    def _below(self, path: str) -> str:
        if not path.startswith(self._root + "/"):
            raise ArtifactError(f"{self._uri.shown}: the store listed {path[:200]!r}")
        return path.removeprefix(self._root + "/")

    def _find(self) -> dict[str, dict[str, Any]]:
        if self._client is None:
            self._client = _open(self._uri.scheme, self._settings)
        self._client.invalidate_cache()
        found: dict[str, dict[str, Any]] = self._client.find(self._root, detail=True)
        return found

    def _block(self, path: str, start: int, stop: int) -> bytes:
        block: bytes = self._client.cat_file(path, start=start, end=stop)
        return block

    async def _do(self, work: Callable[[], T]) -> T:
        """Run a client's call in a thread, and its errors as ours."""
        try:
            return await asyncio.to_thread(work)
        except GONE as error:
            raise ArtifactError(f"{self._uri.shown}: {error}") from None
        except _errors(self._uri.scheme) as error:
            raise ArtifactError(f"{self._uri.shown}: {error}", retry_safe=True) from None


def _described(name: str, info: Mapping[str, Any]) -> RemoteFile:
    version = next((str(info[key]) for key in VERSIONS if info.get(key)), "")
    lfs = info.get("lfs")
    digest = lfs.get("sha256") if isinstance(lfs, Mapping) else None
    return RemoteFile(name, int(info["size"]), version, sha256=digest)


def _open(scheme: str, settings: ArtifactSettings) -> Any:
    """Return a client of its own for one fetch; nothing that it has listed is kept."""
    try:
        fsspec = import_module("fsspec")
        return fsspec.filesystem(
            scheme, skip_instance_cache=True, use_listings_cache=False, **_options(scheme, settings)
        )
    except ImportError as error:
        raise ArtifactError(
            f"{scheme}:// needs {CLIENTS[scheme]}: pip install 'headrace[artifacts]' ({error})"
        ) from None


def _options(scheme: str, settings: ArtifactSettings) -> dict[str, Any]:
    if scheme != "s3":
        return {}
    s3 = settings.s3
    return {
        "anon": s3.anonymous,
        "endpoint_url": s3.endpoint_url,
        "client_kwargs": {} if s3.region is None else {"region_name": s3.region},
        "config_kwargs": {
            "connect_timeout": settings.idle_s,
            "read_timeout": settings.idle_s,
            "retries": {"max_attempts": 1},  # ours go on where the connection broke
        },
        "max_concurrency": settings.parts,
    }


def _errors(scheme: str) -> tuple[type[Exception], ...]:
    """Return the errors that another attempt may not meet."""
    found: list[type[Exception]] = [OSError, TimeoutError]
    for module, name in ERRORS[scheme]:
        with suppress(ImportError):
            found.append(getattr(import_module(module), name))
    return tuple(found)
