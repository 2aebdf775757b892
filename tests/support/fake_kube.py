"""A small Kubernetes API server in this process, over real HTTP on loopback.

    async with FakeKube() as kube, kube.client() as api:
        pod = kube.put(PODS, {"metadata": {"name": "a", "namespace": "ns"}})

Writes of tests (``put``, ``set_status``, ``remove``) are those of another actor: watchers see them.
Faults: ``compact``, ``bookmark``, ``break_watches``, ``silence_watches``, ``fail``, ``stop`` and
``start`` (on the same port, with the same objects). ``tests/e2e/kube`` shows the real server.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from headrace.service.kube.api import Api, ApiLimits, Server
from headrace.service.kube.resource import Key, Resource, key_of
from tests.support.fake_kube_store import (
    KNOWN,
    Change,
    FakeStatus,
    FakeStore,
    Obj,
    field_matcher,
    label_matcher,
)


def _place(resource: Resource) -> tuple[str, str]:
    path, _, plural = resource.path().rpartition("/")
    return path, plural


@dataclass(slots=True)
class Fault:
    """Answers some of the calls to come."""

    times: int
    status: int
    reason: str
    method: str
    plural: str
    after: int


@dataclass(slots=True)
class Watch:
    """One open watch."""

    resource: Resource
    namespace: str
    matches: Callable[[Obj], bool]
    bookmarks: bool
    events: asyncio.Queue[bytes | None] = field(default_factory=asyncio.Queue)

    def offer(self, change: Change) -> None:
        if change.resource != self.resource:
            return
        event = self.event(change)
        if event is not None:
            self.events.put_nowait(event)

    def event(self, change: Change) -> bytes | None:
        """Return the line for a change, or None: what stops matching goes, as far as it sees."""
        had = change.before is not None and self._sees(change.before)
        has = change.after is not None and self._sees(change.after)
        if has:
            assert change.after is not None
            return line("MODIFIED" if had else "ADDED", change.after)
        if had:
            assert change.before is not None
            gone = dict(change.after or change.before)
            gone["metadata"] = {**gone["metadata"], "resourceVersion": str(change.version)}
            return line("DELETED", gone)
        return None

    def _sees(self, obj: Obj) -> bool:
        return (not self.namespace or key_of(obj)[0] == self.namespace) and self.matches(obj)


def line(kind: str, obj: Obj) -> bytes:
    """Return one event of a watch."""
    return json.dumps({"type": kind, "object": obj}).encode() + b"\n"


class FakeKube:
    """The server. ``store`` has its objects; ``requests`` counts calls by method and plural."""

    def __init__(self) -> None:
        self.store = FakeStore()
        self.store.on_change.append(self._changed)
        self.requests: Counter[tuple[str, str]] = Counter()
        self.token: str | None = None
        self.kinds = {_place(resource): resource for resource in KNOWN}
        self.watches: list[Watch] = []
        self.watch_s = 1_800.0  # longest
        self.queries: list[dict[str, str]] = []
        self._faults: list[Fault] = []
        self._pages: dict[str, list[Obj]] = {}
        self._runner: web.AppRunner | None = None
        self._port = 0
        self._silent = False
        self._watching = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def client(self, limits: ApiLimits | None = None) -> Api:
        """Return a client of it, to be closed by whoever asks."""

        async def authorize(_: bool) -> str | None:
            return None if self.token is None else f"Bearer {self.token}"

        return Api(Server(self.url), authorize, limits or ApiLimits(answer_s=5.0))

    async def __aenter__(self) -> FakeKube:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen, on the port of before where there was one."""
        app = web.Application(client_max_size=16 << 20)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Break every connection and listen no more; objects stay."""
        runner, self._runner = self._runner, None
        self.break_watches()
        if runner is not None:
            await runner.cleanup()

    def know(self, resource: Resource, *, status: bool = True) -> None:
        """Serve one more kind, as after its definition was installed."""
        self.kinds[_place(resource)] = resource
        self.store.known.append(resource)
        if status:
            self.store.with_status.add(resource.plural)

    # What others do to objects.

    def put(self, resource: Resource, obj: Obj) -> Obj:
        """Create an object or replace it, status included; return it as stored."""
        key = key_of(obj)
        if key not in self.store.all(resource):
            made = self.store.create(resource, key[0], obj)
        else:
            given = {**obj, "metadata": {**obj["metadata"]}}
            given["metadata"].pop("resourceVersion", None)
            made = self.store.update(resource, key, given)
        if "status" in obj:
            made = self.set_status(resource, key, obj["status"])
        return made

    def set_status(self, resource: Resource, key: Key, status: Obj) -> Obj:
        """Merge into an object's status, as a kubelet or controller does."""
        return self.store.patch(resource, key, {"status": status}, "status")

    def remove(self, resource: Resource, key: Key, *, now: bool = True) -> None:
        """Delete an object; ``now`` also ends the grace period of a pod, as its kubelet would."""
        options = {"gracePeriodSeconds": 0} if now else {}
        self.store.delete(resource, key, options)

    # Faults.

    def fail(
        self,
        times: int,
        status: int = 500,
        reason: str = "InternalError",
        *,
        method: str = "",
        plural: str = "",
        after: int = 0,
    ) -> None:
        """Answer the next calls of a method ("" all) and plural ("" all), ``after`` some, so."""
        self._faults.append(Fault(times, status, reason, method, plural, after))

    def compact(self) -> None:
        """Forget history and begun lists: 410 for whoever relies on them."""
        self.store.compact()
        self._pages.clear()

    def bookmark(self) -> None:
        """Tell every watch that wants to know where it is."""
        for watch in self.watches:
            if watch.bookmarks:
                watch.events.put_nowait(self._bookmark(watch.resource))

    def break_watches(self) -> None:
        """End every watch, without a word."""
        for watch in self.watches:
            watch.events.put_nowait(None)

    def silence_watches(self, silent: bool = True) -> None:
        """Send nothing to watches any more, as over a connection that is half open."""
        self._silent = silent

    async def watched(self, plural: str) -> None:
        """Wait until somebody watches a kind."""
        while not any(watch.resource.plural == plural for watch in self.watches):
            self._watching.clear()
            await self._watching.wait()

    # HTTP.

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        parts = request.path.strip("/").split("/")
        try:
            resource, namespace, name, subresource = self._target(parts)
            self.requests[request.method, resource.plural] += 1
            self._refuse(request, resource)
            if request.method == "GET" and not name:
                self.queries.append(dict(request.query))
                if request.query.get("watch") in ("1", "true"):
                    return await self._watch(request, resource, namespace)
                return web.json_response(self._list(request, resource, namespace))
            key = (namespace, name)
            body = await request.read()
            given = json.loads(body) if body else {}
            obj, code = self._object(request, resource, key, subresource, given)
            return web.json_response(obj, status=code)
        except FakeStatus as error:
            headers = {"Retry-After": "1"} if error.code == 429 else {}
            return web.json_response(error.body, status=error.code, headers=headers)

    def _target(self, parts: list[str]) -> tuple[Resource, str, str, str]:
        """Return kind, namespace, name and subresource of a path."""
        depth = 2 if parts[0] == "api" else 3
        root, rest = "/" + "/".join(parts[:depth]), parts[depth:]
        namespace = ""
        if len(rest) > 2 and rest[0] == "namespaces":
            namespace, rest = rest[1], rest[2:]
        resource = self.kinds.get((root, rest[0] if rest else ""))
        if resource is None:
            raise FakeStatus(404, "NotFound", "the server could not find the requested resource")
        padded = [*rest[1:], "", ""]
        return resource, namespace, padded[0], padded[1]

    def _refuse(self, request: web.Request, resource: Resource) -> None:
        if (
            self.token is not None
            and request.headers.get("Authorization") != f"Bearer {self.token}"
        ):
            raise FakeStatus(401, "Unauthorized", "Unauthorized")
        for fault in self._faults:
            fits = fault.method in ("", request.method) and fault.plural in ("", resource.plural)
            if fits and fault.after > 0:
                fault.after -= 1
            elif fits and fault.times > 0:
                fault.times -= 1
                raise FakeStatus(fault.status, fault.reason, f"made to fail: {fault.reason}")

    def _object(  # one line per method
        self, request: web.Request, resource: Resource, key: Key, subresource: str, given: Obj
    ) -> tuple[Obj, int]:
        store, method = self.store, request.method
        if method == "GET":
            return store.get(resource, key), 200
        if method == "POST":
            return store.create(resource, key[0], given), 201
        if method == "PUT":
            return store.update(resource, key, given, subresource), 200
        if method == "DELETE":
            return store.delete(resource, key, given), 200
        kind = request.headers.get("Content-Type", "")
        if kind == "application/apply-patch+yaml":
            manager = request.query.get("fieldManager", "")
            obj, created = store.apply(resource, key, given, manager, subresource)
            return obj, 201 if created else 200
        if kind == "application/merge-patch+json":
            return store.patch(resource, key, given, subresource), 200
        raise FakeStatus(415, "UnsupportedMediaType", f"unsupported patch {kind!r}")

    def _matcher(self, request: web.Request) -> Callable[[Obj], bool]:
        labels = label_matcher(request.query.get("labelSelector", ""))
        fields = field_matcher(request.query.get("fieldSelector", ""))
        return lambda obj: labels(obj) and fields(obj)

    def _list(self, request: web.Request, resource: Resource, namespace: str) -> Obj:
        token = request.query.get("continue")
        if token is None:
            found = self.store.select(resource, namespace, self._matcher(request))
            version = str(self.store.version)
        else:
            said = json.loads(base64.b64decode(token))
            if token not in self._pages:
                raise FakeStatus(410, "Expired", "The provided continue parameter is too old")
            found, version = self._pages.pop(token), said["version"]
        limit = int(request.query.get("limit", 0)) or len(found)
        metadata: Obj = {"resourceVersion": version}
        if len(found) > limit:
            key = key_of(found[limit])
            word = json.dumps({"version": version, "from": key})
            metadata["continue"] = base64.b64encode(word.encode()).decode()
            metadata["remainingItemCount"] = len(found) - limit
            self._pages[metadata["continue"]] = found[limit:]
        items = [
            {k: v for k, v in obj.items() if k not in ("apiVersion", "kind")}
            for obj in found[:limit]
        ]
        kind = f"{resource.kind}List"
        return {
            "kind": kind,
            "apiVersion": resource.api_version,
            "metadata": metadata,
            "items": items,
        }

    async def _watch(
        self, request: web.Request, resource: Resource, namespace: str
    ) -> web.StreamResponse:
        watch = Watch(
            resource,
            namespace,
            self._matcher(request),
            request.query.get("allowWatchBookmarks") in ("1", "true"),
        )
        self._begin(watch, request.query.get("resourceVersion", ""))
        self.watches.append(watch)
        self._watching.set()
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        try:
            await response.prepare(request)
            asked_s = float(request.query.get("timeoutSeconds", self.watch_s))
            async with asyncio.timeout(min(asked_s, self.watch_s)):
                while (event := await watch.events.get()) is not None:
                    if not self._silent:
                        await response.write(event)
            if request.transport is not None:
                request.transport.close()  # broken off: not even the end of the chunks
        except TimeoutError:
            while not watch.events.empty():  # a bookmark says that nothing before it is to come
                if (event := watch.events.get_nowait()) is not None and not self._silent:
                    await response.write(event)
            if watch.bookmarks:
                await response.write(self._bookmark(resource))
        except ConnectionResetError:
            pass
        finally:
            self.watches.remove(watch)
        return response

    def _begin(self, watch: Watch, since: str) -> None:
        """Queue what happened since a version, or everything that is there."""
        if since in ("", "0"):
            for obj in self.store.select(watch.resource, watch.namespace, watch.matches):
                watch.events.put_nowait(line("ADDED", obj))
            return
        if int(since) < self.store.compacted:
            gone = FakeStatus(410, "Expired", f"too old resource version: {since}")
            watch.events.put_nowait(line("ERROR", gone.body))
            return
        for change in self.store.history:
            if change.version > int(since):
                watch.offer(change)

    def _changed(self, change: Change) -> None:
        for watch in self.watches:
            watch.offer(change)

    def _bookmark(self, resource: Resource) -> bytes:
        metadata: dict[str, Any] = {"resourceVersion": str(self.store.version)}
        return line(
            "BOOKMARK",
            {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata},
        )
