"""The objects of a fake Kubernetes API server, and what writing to them does. No I/O.

Kept to what the real one (v1.34) does where our code could notice: versions, generations, no-op
writes, finalizers, graceful deletion of pods, owners, label selectors, server-side apply per
manager. Admission, defaulting, validation and schemas are not here.
"""

from __future__ import annotations

import copy
import json
import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from headrace.service.kube import resource as kinds
from headrace.service.kube.resource import Key, Resource

Obj = dict[str, Any]

WITH_STATUS = frozenset(
    {"pods", "modelservices", "loraadapters", "poddisruptionbudgets", "rayclusters"}
    | {"inferencepools", "services", "namespaces"}
)
KNOWN = tuple(value for value in vars(kinds).values() if isinstance(value, Resource))
_LIST_KEYS = {"conditions": "type", "ownerReferences": "uid", "parents": "parentRef"}
_SETS = frozenset({"finalizers"})
_AT = "2026-01-01T00:00:00Z"


class FakeStatus(Exception):
    """What is answered instead of an object."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.body = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "code": code,
        }


@dataclass(frozen=True, slots=True)
class Change:
    """One version of one object; ``before`` is None when it came, ``after`` when it went."""

    version: int
    resource: Resource
    before: Obj | None
    after: Obj | None


@dataclass(slots=True)
class FakeStore:
    """All objects, their history since the last compaction, and who applied what."""

    version: int = 100
    compacted: int = 0
    objects: dict[str, dict[Key, Obj]] = field(default_factory=dict)
    history: list[Change] = field(default_factory=list)
    applied: dict[tuple[str, Key, str, str], Obj] = field(default_factory=dict)
    validators: dict[str, Callable[[Obj], str | None]] = field(default_factory=dict)
    with_status: set[str] = field(default_factory=lambda: set(WITH_STATUS))
    known: list[Resource] = field(default_factory=lambda: list(KNOWN))
    on_change: list[Callable[[Change], None]] = field(default_factory=list)

    def get(self, resource: Resource, key: Key) -> Obj:
        found = self.all(resource).get(key)
        if found is None:
            message = f'{resource.title} "{key[1]}" not found'
            raise FakeStatus(404, "NotFound", message)
        return copy.deepcopy(found)

    def all(self, resource: Resource) -> dict[Key, Obj]:
        return self.objects.setdefault(resource.title, {})

    def select(
        self, resource: Resource, namespace: str, matches: Callable[[Obj], bool]
    ) -> list[Obj]:
        return [
            copy.deepcopy(obj)
            for key, obj in sorted(self.all(resource).items())
            if (not namespace or key[0] == namespace) and matches(obj)
        ]

    def create(self, resource: Resource, namespace: str, given: Obj) -> Obj:
        obj = copy.deepcopy(given)
        metadata = obj.setdefault("metadata", {})
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = metadata["generateName"] + uuid.uuid4().hex[:5]
        if metadata.get("namespace", namespace) != namespace:
            message = "the namespace of the provided object does not match the namespace sent"
            raise FakeStatus(400, "BadRequest", message)
        if metadata.get("resourceVersion"):
            message = "resourceVersion should not be set on objects to be created"
            raise FakeStatus(400, "BadRequest", message)
        if resource.namespaced:
            metadata["namespace"] = namespace
        key = (namespace if resource.namespaced else "", metadata["name"])
        if key in self.all(resource):
            message = f'{resource.title} "{key[1]}" already exists'
            raise FakeStatus(409, "AlreadyExists", message)
        for name in ("managedFields", "deletionTimestamp", "selfLink"):
            metadata.pop(name, None)
        metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": _AT, "generation": 1}
        if resource.plural in self.with_status:
            obj.pop("status", None)
            if resource.plural == "pods":
                obj["status"] = {"phase": "Pending"}
        obj = {"apiVersion": resource.api_version, "kind": resource.kind} | obj
        self._validate(resource, obj)
        return self._store(resource, key, None, obj)

    def update(self, resource: Resource, key: Key, given: Obj, subresource: str = "") -> Obj:
        """Replace an object, or its status only."""
        before = self.get(resource, key)
        metadata = given.get("metadata", {})
        self._check(resource, before, metadata.get("uid"), metadata.get("resourceVersion"))
        after = copy.deepcopy(given)
        if subresource == "status":
            after = {**before, "status": after.get("status")}
        elif resource.plural in self.with_status:
            after.pop("status", None)
            if "status" in before:
                after["status"] = before["status"]
        return self._replace(resource, key, before, after)

    def patch(self, resource: Resource, key: Key, patch: Obj, subresource: str = "") -> Obj:
        """Apply a JSON merge patch."""
        before = self.get(resource, key)
        metadata = patch.get("metadata") or {}
        self._check(resource, before, metadata.get("uid"), metadata.get("resourceVersion"))
        if subresource == "status":
            patch = {"status": patch.get("status")} if "status" in patch else {}
        elif resource.plural in self.with_status:
            patch = {name: value for name, value in patch.items() if name != "status"}
        return self._replace(resource, key, before, merge_patched(before, patch))

    def apply(
        self, resource: Resource, key: Key, config: Obj, manager: str, subresource: str = ""
    ) -> tuple[Obj, bool]:
        """Server-side apply; return the object and whether it was created."""
        if not manager:
            raise FakeStatus(422, "Invalid", "fieldManager is required for apply patch")
        if config.get("apiVersion") != resource.api_version or config.get("kind") != resource.kind:
            raise FakeStatus(400, "BadRequest", "apiVersion and kind must be those of the path")
        if "managedFields" in config.get("metadata", {}):
            raise FakeStatus(400, "BadRequest", "metadata.managedFields must be nil")
        wanted = self._applicable(resource, config, subresource)
        owner = (resource.title, key, manager, subresource)
        if key not in self.all(resource):
            if subresource or config["metadata"].get("uid"):
                self.get(resource, key)
            made = self.create(resource, key[0], {"metadata": {"name": key[1]}} | config)
            self.applied[owner] = wanted
            return made, True
        before = self.get(resource, key)
        metadata = config.get("metadata", {})
        self._check(resource, before, metadata.get("uid"), metadata.get("resourceVersion"))
        others = [
            given
            for (title, k, *who), given in self.applied.items()
            if (title, k) == (resource.title, key) and who != [manager, subresource]
        ]
        after = without(before, self.applied.get(owner, {}), wanted, others)
        after = applied_over(after, wanted)
        stored = self._replace(resource, key, before, after)
        self.applied[owner] = wanted
        return stored, False

    def delete(self, resource: Resource, key: Key, options: Obj | None = None) -> Obj:
        """Delete an object, or mark it where something must happen before it goes."""
        options = options or {}
        before = self.get(resource, key)
        wanted = options.get("preconditions") or {}
        self._check(resource, before, wanted.get("uid"), wanted.get("resourceVersion"))
        grace_s = self._grace_s(resource, before, options)
        if options.get("propagationPolicy") == "Orphan":
            self._orphan(before["metadata"]["uid"])
        metadata = before["metadata"]
        if metadata.get("finalizers") or grace_s > 0:
            if "deletionTimestamp" in metadata:
                return before
            after = copy.deepcopy(before)
            after["metadata"] |= {
                "deletionTimestamp": _AT,
                "deletionGracePeriodSeconds": grace_s,
            }
            return self._store(resource, key, before, after)
        self._remove(resource, key, before)
        return before

    def compact(self) -> None:
        """Forget all history: whoever watches from an older version must list again."""
        self.compacted = self.version
        self.history.clear()

    def _grace_s(self, resource: Resource, obj: Obj, options: Obj) -> int:
        """Pods that a kubelet has taken stay until it says that they have ended."""
        if resource.plural != "pods" or not obj.get("spec", {}).get("nodeName"):
            return 0
        if obj.get("status", {}).get("phase") in ("Failed", "Succeeded"):
            return 0
        given = options.get("gracePeriodSeconds")
        default = obj["spec"].get("terminationGracePeriodSeconds", 30)
        return int(default if given is None else given)

    def _check(self, resource: Resource, obj: Obj, uid: str | None, version: str | None) -> None:
        name = obj["metadata"]["name"]
        start = f'Operation cannot be fulfilled on {resource.title} "{name}": '
        if uid is not None and uid != obj["metadata"]["uid"]:
            raise FakeStatus(409, "Conflict", f"{start}the UID in the precondition does not match")
        if version and version != obj["metadata"]["resourceVersion"]:
            raise FakeStatus(409, "Conflict", f"{start}the object has been modified")

    def _validate(self, resource: Resource, obj: Obj) -> None:
        validator = self.validators.get(resource.title)
        if validator is not None and (said := validator(obj)) is not None:
            message = f'{resource.kind} "{obj["metadata"]["name"]}" is invalid: {said}'
            raise FakeStatus(422, "Invalid", message)

    def _applicable(self, resource: Resource, config: Obj, subresource: str) -> Obj:
        """Return the part of an applied object that counts."""
        if subresource == "status":
            return {"status": copy.deepcopy(config.get("status", {}))}
        wanted = copy.deepcopy(config)
        metadata = wanted.get("metadata", {})
        for name in ("name", "namespace", "uid", "resourceVersion", "creationTimestamp"):
            metadata.pop(name, None)
        if resource.plural in self.with_status:
            wanted.pop("status", None)
        return wanted

    def _replace(self, resource: Resource, key: Key, before: Obj, after: Obj) -> Obj:
        after = copy.deepcopy(after)
        after |= {"apiVersion": resource.api_version, "kind": resource.kind}
        metadata = _kept_metadata(before["metadata"], after.setdefault("metadata", {}))
        new = set(metadata.get("finalizers", ())) - set(before["metadata"].get("finalizers", ()))
        if "deletionTimestamp" in metadata and new:
            message = (
                f"no new finalizers can be added if the object is being deleted: {sorted(new)}"
            )
            raise FakeStatus(422, "Invalid", message)
        if _spec_of(before) != _spec_of(after):
            metadata["generation"] = before["metadata"]["generation"] + 1
        if before == after:  # a write that changes nothing has no effect at all
            return copy.deepcopy(before)
        self._validate(resource, after)
        ending = "deletionTimestamp" in metadata and not metadata.get("finalizers")
        if ending and not metadata.get("deletionGracePeriodSeconds"):
            self._remove(resource, key, before)
            return after
        return self._store(resource, key, before, after)

    def _store(self, resource: Resource, key: Key, before: Obj | None, after: Obj) -> Obj:
        self.version += 1
        after["metadata"]["resourceVersion"] = str(self.version)
        stored = copy.deepcopy(after)
        self.all(resource)[key] = stored
        self._happened(Change(self.version, resource, before, stored))
        return copy.deepcopy(stored)

    def _remove(self, resource: Resource, key: Key, before: Obj) -> None:
        self.version += 1
        del self.all(resource)[key]
        for owner in [o for o in self.applied if o[:2] == (resource.title, key)]:
            del self.applied[owner]
        self._happened(Change(self.version, resource, before, None))
        self._collect(before["metadata"]["uid"])

    def _happened(self, change: Change) -> None:
        self.history.append(change)
        for callback in tuple(self.on_change):
            callback(change)

    def _owned(self, uid: str) -> Iterable[tuple[Resource, Key, Obj]]:
        for resource in self.known:
            for key, obj in list(self.all(resource).items()):
                if any(r["uid"] == uid for r in obj["metadata"].get("ownerReferences", ())):
                    yield resource, key, obj

    def _collect(self, uid: str) -> None:
        """Delete, as the garbage collector does in the background, what had this one owner."""
        for resource, key, obj in self._owned(uid):
            if key in self.all(resource) and len(obj["metadata"]["ownerReferences"]) == 1:
                self.delete(resource, key)

    def _orphan(self, uid: str) -> None:
        for resource, key, obj in self._owned(uid):
            left = [r for r in obj["metadata"]["ownerReferences"] if r["uid"] != uid]
            self.patch(resource, key, {"metadata": {"ownerReferences": left or None}})


def _kept_metadata(before: Obj, after: Obj) -> Obj:
    """Put back what no write changes, and drop what is empty."""
    for name in (
        *("uid", "name", "namespace", "creationTimestamp", "resourceVersion", "generation"),
        *("deletionTimestamp", "deletionGracePeriodSeconds", "managedFields"),
    ):
        after.pop(name, None)
        if name in before:
            after[name] = before[name]
    for name in ("finalizers", "ownerReferences", "labels", "annotations"):
        if not after.get(name, True):
            del after[name]
    return after


def _spec_of(obj: Obj) -> Obj:
    """Return what a generation counts."""
    return {k: v for k, v in obj.items() if k not in ("metadata", "status", "kind", "apiVersion")}


def merge_patched(target: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merge_patched(result.get(name), value)
    return result


def applied_over(live: Any, wanted: Any, name: str = "") -> Any:
    """Return ``live`` with every field that ``wanted`` has."""
    if isinstance(wanted, dict) and isinstance(live, dict):
        merged = {key: applied_over(live.get(key), value, key) for key, value in wanted.items()}
        return {**live, **merged}
    if name in _SETS and isinstance(live, list):
        return [*live, *(item for item in wanted if item not in live)]
    if name in _LIST_KEYS and isinstance(live, list):
        by, found = _LIST_KEYS[name], {_word(item[_LIST_KEYS[name]]): item for item in live}
        for item in wanted:
            found[_word(item[by])] = applied_over(found.get(_word(item[by])), item)
        return list(found.values())
    return copy.deepcopy(wanted)


def without(live: Any, before: Any, wanted: Any, others: list[Any], name: str = "") -> Any:
    """Return ``live`` without what a manager applied before, no more wants, and nobody else has."""
    if not (isinstance(live, dict) and isinstance(before, dict)):
        if name in _SETS | _LIST_KEYS.keys() and isinstance(live, list) and before:
            return _items_without(live, before, wanted or [], others, name)
        return live
    result = dict(live)
    for key, value in before.items():
        theirs = [other[key] for other in others if isinstance(other, dict) and key in other]
        if key not in live:
            continue
        if isinstance(wanted, dict) and key in wanted:
            result[key] = without(live[key], value, wanted[key], theirs, key)
        elif not theirs:
            if isinstance(value, dict) and isinstance(live[key], dict):
                left = without(live[key], value, {}, [], key)
                result[key] = left
                if not left:
                    del result[key]
            elif key in _SETS | _LIST_KEYS.keys() and isinstance(live[key], list):
                result[key] = _items_without(live[key], value, [], [], key)
            else:
                del result[key]
    return result


def _items_without(
    live: list[Any], before: list[Any], wanted: list[Any], others: list[Any], name: str
) -> list[Any]:
    by = _LIST_KEYS.get(name)

    def word(item: Any) -> str:
        return _word(item if by is None else item[by])

    keep = {word(item) for items in (wanted, *others) for item in items}
    gone = {word(item) for item in before} - keep
    return [item for item in live if word(item) not in gone]


def _word(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def label_matcher(selector: str) -> Callable[[Obj], bool]:
    """Return what a label selector selects."""
    tests = [_requirement(part) for part in re.split(r",(?![^(]*\))", selector) if part.strip()]

    def matches(obj: Obj) -> bool:
        labels: Mapping[str, str] = obj["metadata"].get("labels") or {}
        return all(test(labels) for test in tests)

    return matches


def _requirement(text: str) -> Callable[[Mapping[str, str]], bool]:
    text = text.strip()
    if found := re.fullmatch(r"(\S+)\s+(in|notin)\s*\(([^)]*)\)", text):
        key, how, listed = found.groups()
        values = {value.strip() for value in listed.split(",")}
        if how == "in":
            return lambda labels: key in labels and labels[key] in values
        return lambda labels: labels.get(key) not in values
    if "!=" in text:
        key, value = (side.strip() for side in text.split("!=", 1))
        return lambda labels: labels.get(key) != value
    if "=" in text:
        key, value = (side.strip() for side in re.split(r"==?", text, maxsplit=1))
        return lambda labels: labels.get(key) == value
    if text.startswith("!"):
        return lambda labels: text[1:].strip() not in labels
    return lambda labels: text in labels


def field_matcher(selector: str) -> Callable[[Obj], bool]:
    """Return what a field selector of equalities selects."""
    wanted = [part.split("=", 1) for part in selector.replace("==", "=").split(",") if part]

    def at(obj: Any, path: str) -> Any:
        for name in path.split("."):
            obj = obj.get(name) if isinstance(obj, dict) else None
        return obj if obj is not None else ""

    return lambda obj: all(at(obj, path) == value for path, value in wanted)
