"""LoraAdapter objects of a cluster as adapters: what each asks for, or why it is not had. Pure.

A gateway and the controller read the same objects by this, so that what one does the other tells.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from headrace.core.adapter import AdapterSpec
from headrace.core.ids import ModelName
from headrace.service.kube.resource import Key, Object, key_of

BAD_SPEC: Final = "BadSpec"
NO_SUCH_MODEL: Final = "NoSuchModel"
NO_LORA: Final = "NoLora"
NAME_TAKEN: Final = "NameTaken"


class _Adapter(msgspec.Struct, frozen=True):
    """``spec`` of a LoraAdapter; the definition in the cluster checks the rest."""

    base: str
    source: str
    name: str | None = None
    digest: str | None = None
    rank: int | None = None
    replicas: int | None = None


class _Model(msgspec.Struct, frozen=True):
    name: str | None = None


class _Service(msgspec.Struct, frozen=True):
    """What is read of a ModelService's ``spec``."""

    model: _Model = _Model()
    lora: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """What one LoraAdapter object comes to.

    Attributes:
        spec: The adapter; None if it is not served.
        reason: Why it is not, in one word; "" if it is.
        message: The same for people.

    """

    spec: AdapterSpec | None = None
    reason: str = ""
    message: str = ""


def claims(adapters: Iterable[Object], services: Mapping[Key, Object]) -> dict[Key, Claim]:
    """Return what every adapter object comes to, those that are being deleted left out.

    Two that claim one name: the older has it; of equal age, the one whose key is less.

    Args:
        adapters: The LoraAdapters.
        services: The ModelServices by namespace and name.

    """
    served = {_served_name(service): key for key, service in sorted(services.items())}
    owners: dict[ModelName, Key] = {}
    made: dict[Key, Claim] = {}
    for adapter in sorted(adapters, key=_age):
        if "deletionTimestamp" in adapter["metadata"]:
            continue
        key = key_of(adapter)
        claim = _claim(adapter, services)
        if claim.spec is not None:
            name = claim.spec.name
            taken = _taken(name, served, owners)
            if taken:
                claim = Claim(None, NAME_TAKEN, taken)
            else:
                owners[name] = key
        made[key] = claim
    return made


def slim(obj: dict[str, Any]) -> Object:
    """Return the part of a LoraAdapter or a ModelService that is read here."""
    metadata = obj["metadata"]
    kept = (
        *("name", "namespace", "uid", "resourceVersion"),
        *("creationTimestamp", "deletionTimestamp"),
    )
    spec = obj.get("spec") or {}
    if "model" in spec or "engine" in spec:
        spec = {name: spec[name] for name in ("model", "lora") if name in spec}
    return {"metadata": {name: metadata[name] for name in kept if name in metadata}, "spec": spec}


def _claim(adapter: Object, services: Mapping[Key, Object]) -> Claim:
    namespace, own_name = key_of(adapter)
    try:
        said = msgspec.convert(adapter.get("spec"), _Adapter)
    except msgspec.ValidationError as error:
        return Claim(None, BAD_SPEC, f"spec: {error}")
    service = services.get((namespace, said.base))
    if service is None:
        message = f"there is no ModelService {said.base!r} in namespace {namespace!r}"
        return Claim(None, NO_SUCH_MODEL, message)
    if _service(service).lora is None:
        return Claim(None, NO_LORA, f"ModelService {said.base!r} has no spec.lora")
    return Claim(
        AdapterSpec(
            ModelName(said.name or own_name),
            _served_name(service),
            said.source,
            rank=said.rank,
            digest=said.digest,
            replicas=said.replicas,
        )
    )


def _taken(
    name: ModelName, served: Mapping[ModelName, Key], owners: Mapping[ModelName, Key]
) -> str:
    """Return who has a name already, in a sentence; "" if nobody does."""
    if name in served:
        return f"{name!r} is what ModelService {'/'.join(served[name])} is called"
    if name in owners:
        return f"{name!r} is what LoraAdapter {'/'.join(owners[name])} is called, which is older"
    return ""


def _served_name(service: Object) -> ModelName:
    """Return what clients call the model of a ModelService."""
    return ModelName(_service(service).model.name or service["metadata"]["name"])


def _service(service: Object) -> _Service:
    try:
        return msgspec.convert(service.get("spec") or {}, _Service)
    except msgspec.ValidationError:
        return _Service()  # stored under another schema: the controller makes no pods of it


def _age(obj: Object) -> tuple[str, Key]:
    # RFC 3339 in UTC, as API servers write it, sorts as text.
    return str(obj["metadata"].get("creationTimestamp", "")), key_of(obj)
