"""What ``--model-service`` serves: settings and what a file of documents says. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from controller.api.documents import Document, Documents
from controller.api.lora_adapter import LoraAdapterSpec
from controller.api.model_service import Lora, ModelServiceSpec
from controller.fleets.from_service import fleet_settings, ignored
from gateway.adapters_config import AdapterEntry, AdapterSettings
from headrace.cli.config import KeepSettings, UpSettings
from headrace.core.errors import ConfigError
from headrace.runtime.engines import vllm
from headrace.runtime.engines.launch import EngineKind

DECIDED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "fleet.engine": "--engine",
        "fleet.model": "--model",
        "fleet.replicas": "--replicas",
        "fleet.time_scale": "--time-scale",
        "fleet.simulated.hardware": "--hardware",
        "fleet.simulated.model": "--sim-model",
        "fleet.tp": "--tp",
    }
)
"""Options that a ModelService has fields for."""

PRESUMED_RANK: Final = Lora().max_rank
"""Of an adapter whose rank nobody said."""

PRESUMED_SLOTS: Final = Lora().max_loras
"""Of an engine that settings list adapters for, but no slots: as of a ModelService's."""


def refuse_decided(flags: Mapping[str, object]) -> None:
    """Refuse options that say what the ModelService says.

    Raises:
        ConfigError: naming them.

    """
    given = [option for field, option in DECIDED.items() if field in flags]
    if given:
        raise ConfigError(f"{', '.join(given)}: not with --model-service, which says it")


def with_documents(settings: UpSettings, documents: Documents) -> tuple[UpSettings, list[str]]:
    """Return the settings that serve what the documents say, and what of those is ignored.

    Raises:
        ConfigError: a line per field that cannot be honoured here.

    """
    service = _service(documents)
    assert isinstance(service.spec, ModelServiceSpec)
    served = service.spec.model.name or service.name
    adapters = [each for each in documents.ours if isinstance(each.spec, LoraAdapterSpec)]
    problems = list(_adapter_problems(service, adapters))
    if problems:
        raise ConfigError("\n".join(problems))
    fleet = fleet_settings(service.name, service.spec, settings.fleet)
    gateway = settings.gateway.model_copy(
        update={"adapters": _adapters(settings.gateway.adapters, service.spec, served, adapters)}
    )
    unused = [*ignored(service.spec, fleet.kind), *documents.others]
    return settings.model_copy(update={"fleet": fleet, "gateway": gateway}), unused


def with_adapters(settings: UpSettings) -> UpSettings:
    """Return the settings with engines that can load the adapters that the settings list.

    What ``fleet.engine_args`` says of adapters stays as it is, for whoever wrote it knows better.
    """
    adapters, fleet = settings.gateway.adapters, settings.fleet
    if fleet.engine is not EngineKind.VLLM or not adapters.known:
        return settings
    args, env = fleet.engine_args, {**vllm.LORA_ENV, **fleet.env}
    if not any("enable-lora" in arg or "enable_lora" in arg for arg in args):
        wide = max(entry.rank or PRESUMED_RANK for entry in adapters.known)
        rank = next(each for each in vllm.RANKS if each >= wide)
        slots = adapters.slots or min(PRESUMED_SLOTS, adapters.per_endpoint)
        kept = max(slots, adapters.per_endpoint)
        args = (*vllm.LoraOptions(slots, kept, rank).args, *args)
    changed = fleet.model_copy(update={"engine_args": args, "env": env})
    return settings.model_copy(update={"fleet": changed})


def fleet_with_documents(
    settings: KeepSettings, documents: Documents
) -> tuple[KeepSettings, list[str]]:
    """Return the same for a fleet without a gateway: adapters are the gateways' to load.

    Raises:
        ConfigError: a line per field that cannot be honoured here.

    """
    service = _service(documents)
    assert isinstance(service.spec, ModelServiceSpec)
    fleet = fleet_settings(service.name, service.spec, settings.fleet)
    adapters = [
        f"LoraAdapter {each.name}"
        for each in documents.ours
        if isinstance(each.spec, LoraAdapterSpec)
    ]
    unused = [*ignored(service.spec, fleet.kind), *adapters, *documents.others]
    return settings.model_copy(update={"fleet": fleet}), unused


def _service(documents: Documents) -> Document:
    services = [each for each in documents.ours if isinstance(each.spec, ModelServiceSpec)]
    if len(services) != 1:
        raise ConfigError(f"kind: one ModelService is needed, {len(services)} are given")
    return services[0]


def _adapter_problems(service: Document, adapters: Sequence[Document]) -> Iterator[str]:
    assert isinstance(service.spec, ModelServiceSpec)
    for adapter in adapters:
        assert isinstance(adapter.spec, LoraAdapterSpec)
        if adapter.spec.base != service.name:
            yield f"LoraAdapter {adapter.name}: spec.base: {service.name} is needed, the only model"
    if adapters and service.spec.lora is None:
        yield f"ModelService {service.name}: spec.lora: needed for the LoraAdapters beside it"


def _adapters(
    base: AdapterSettings, spec: ModelServiceSpec, served: str, adapters: Sequence[Document]
) -> AdapterSettings:
    """Return the gateway's adapters: those that the settings know, and those of the documents."""
    values = {name: getattr(base, name) for name in base.model_fields_set}
    if spec.lora is not None:
        values.setdefault("slots", spec.lora.max_loras)
        values.setdefault("per_endpoint", spec.lora.max_cpu_loras)
    values["known"] = (*base.known, *(_entry(adapter, served) for adapter in adapters))
    return AdapterSettings.model_validate(values)


def _entry(adapter: Document, served: str) -> AdapterEntry:
    spec = adapter.spec
    assert isinstance(spec, LoraAdapterSpec)
    return AdapterEntry(
        name=spec.name or adapter.name,
        base=served,
        source=spec.source,
        digest=spec.digest,
        rank=spec.rank,
        replicas=spec.replicas,
    )
