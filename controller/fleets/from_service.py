"""A ModelService as the settings of a fleet: pods of Kubernetes as engines here or on Ray. Pure.

The local fleet and the Ray fleet run one shape of replica. What they cannot honour is an error that
names the field; what only means something on Kubernetes is left out, and ``ignored`` names it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from pydantic import ValidationError

from controller.api.base import Group
from controller.api.model_service import Engine, ModelServiceSpec, Variant
from controller.fleets.config import FleetKind, FleetSettings
from controller.models.spread import spread
from headrace.core.endpoint import Role
from headrace.core.errors import ConfigError
from headrace.runtime.engines import vllm
from headrace.runtime.engines.launch import EngineKind

_ENGINES: Final = MappingProxyType(
    {Engine.SIMULATED: EngineKind.SIMULATED, Engine.VLLM: EngineKind.VLLM}
)
_HUB: Final = "hf://"
_FETCHED: Final = ("http://", "https://", "s3://", "gs://")

_SHAPE: Final = (
    "accelerator",
    "tensor_parallel",
    "pipeline_parallel",
    "nodes",
    "resources",
    "args",
)
"""What replicas of one fleet have in common."""

_FIELDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "replicas": "spec.replicas",
        "roles": "spec.variants",
        "timeouts": "spec.rollout.drainSeconds",
        "tp": "spec.variants[0].tensorParallel",
        "pp": "spec.variants[0].pipelineParallel",
        "nodes": "spec.variants[0].nodes",
        "gpus": "spec.variants[0].tensorParallel",
        "ray": "spec.variants[0].resources.cpu",
        "time_scale": "spec.engine.simulated.timeScale",
        "simulated": "spec.engine.simulated",
    }
)
"""Where a setting of a fleet comes from."""

_CLUSTER_ONLY: Final = ("pod", "engine.image")
_OF_VARIANTS: Final = ("nodeSelector", "tolerations", "accelerator.resource", "accelerator.name")
_OF_ROLLOUTS: Final = ("maxSurge", "maxUnavailable", "progressDeadlineSeconds", "rollback")


def fleet_settings(
    name: str, spec: ModelServiceSpec, base: FleetSettings | None = None
) -> FleetSettings:
    """Return the settings of a fleet that serves what a ModelService says.

    Args:
        name: The service's own.
        spec: The service's.
        base: Where to run it, and what a ModelService does not say; default: the local fleet. Its
            ``gpus`` are kept where it names any.

    Raises:
        ConfigError: a line per problem: the field of the ModelService, and what was expected of it.

    """
    base = FleetSettings() if base is None else base
    wanted = spread(spec.replicas, spec.variants)
    used = [(index, each) for index, each in enumerate(spec.variants) if wanted[each.name]]
    problems = [*_engine_problems(spec), *_shape_problems(spec, used, base.kind)]
    if not used:
        problems.append("spec.replicas: at least 1 is needed where nothing scales")
    if problems:
        raise ConfigError("\n".join(problems))
    changed = _changed(name, spec, wanted, base)
    values: dict[str, Any] = {field: getattr(base, field) for field in FleetSettings.model_fields}
    try:
        return FleetSettings.model_validate(values | changed)
    except ConfigError as error:
        raise ConfigError(f"spec.engine.simulated: {error}") from None
    except ValidationError as error:
        said = [
            f"{_FIELDS.get(str(details['loc'][0]), 'spec') if details['loc'] else 'spec'}: "
            f"{details['msg'][:1].lower()}{details['msg'][1:]}, in a {base.kind.value} fleet"
            for details in error.errors()
        ]
        raise ConfigError("\n".join(said)) from None


def ignored(spec: ModelServiceSpec, kind: FleetKind) -> tuple[str, ...]:
    """Return the fields given that mean nothing outside Kubernetes."""
    found = [f"spec.{path}" for path in _CLUSTER_ONLY if _given(spec, path)]
    found += [f"spec.rollout.{path}" for path in _OF_ROLLOUTS if _given(spec.rollout, path)]
    of_resources = ("resources",) if kind is FleetKind.LOCAL else ("resources.memory",)
    found += [
        f"spec.variants[{index}].{path}"
        for index, variant in enumerate(spec.variants)
        for path in (*_OF_VARIANTS, *of_resources)
        if _given(variant, path)
    ]
    return tuple(found)


def _given(group: Group | None, path: str) -> bool:
    """Return whether a field was written, and says something."""
    head, _, rest = path.partition(".")
    for name, field in type(group).model_fields.items() if group is not None else ():
        if (field.alias or name) != head:
            continue
        value = getattr(group, name)
        if rest:
            return isinstance(value, Group) and _given(value, rest)
        empty = isinstance(value, Group) and not value.model_fields_set
        return group is not None and name in group.model_fields_set and bool(value) and not empty
    return False


def _engine_problems(spec: ModelServiceSpec) -> Iterator[str]:
    if spec.engine.kind not in _ENGINES:
        known = " or ".join(kind.value for kind in _ENGINES)
        yield f"spec.engine.kind: {known} is needed outside Kubernetes"
    if spec.engine.kind is not Engine.SIMULATED and (spec.model.source or "").startswith(_FETCHED):
        yield "spec.model.source: a folder or a hub id is needed; `headrace fetch` makes a folder"
    for index, variable in enumerate(spec.engine.env):
        if variable.value is None:
            yield f"spec.engine.env[{index}].valueFrom: a value is needed outside Kubernetes"


def _shape_problems(
    spec: ModelServiceSpec, used: Sequence[tuple[int, Variant]], kind: FleetKind
) -> Iterator[str]:
    if not used:
        return
    (at, first), *others = used
    for index, variant in others:
        for field in (*_SHAPE, *(("resources",) if kind is FleetKind.RAY else ())):
            if getattr(variant, field) != getattr(first, field):
                name = Variant.model_fields[field].alias or field
                yield (
                    f"spec.variants[{index}].{name}: the same as of spec.variants[{at}] is needed: "
                    f"a {kind.value} fleet has replicas of one shape"
                )
    if kind is FleetKind.LOCAL:
        for name, value in (("nodes", first.nodes), ("pipelineParallel", first.pipeline_parallel)):
            if value > 1:
                yield (
                    f"spec.variants[{at}].{name}: 1 is needed in a local fleet; "
                    "--fleet ray has more"
                )
        real = spec.engine.kind is not Engine.SIMULATED
        if real and first.tensor_parallel > 1 and first.accelerator is None:
            yield f"spec.variants[{at}].accelerator: needed for tensorParallel above 1"


def _changed(
    name: str, spec: ModelServiceSpec, wanted: Mapping[str, int], base: FleetSettings
) -> dict[str, Any]:
    """Return the settings that the service decides."""
    first = next(variant for variant in spec.variants if wanted[variant.name])
    replicas = sum(wanted.values())
    roles = [Role(each.role) for each in spec.variants for _ in range(wanted[each.name])]
    simulated = spec.engine.kind is Engine.SIMULATED
    source = None if simulated else (spec.model.source or "").removeprefix(_HUB)
    args, env = _lora_flags(spec)
    return {
        "engine": _ENGINES[spec.engine.kind],
        "model": source,
        "served_name": spec.model.name or name,
        "replicas": replicas,
        "roles": () if set(roles) == {Role.BOTH} else tuple(roles),
        "tp": first.tensor_parallel if first.accelerator is not None or not simulated else None,
        "pp": first.pipeline_parallel,
        "nodes": first.nodes,
        "gpus": _gpus(spec, first, replicas, base),
        "ray": _ray(spec, first, base),
        "time_scale": spec.engine.simulated.time_scale,
        "simulated": _simulated(spec, base),
        "kv_events": spec.engine.kv_events,
        "engine_args": (*args, *spec.engine.args, *first.args),
        "env": env | {v.name: v.value for v in spec.engine.env if v.value is not None},
        "timeouts": {**base.timeouts.model_dump(), "drain_s": float(spec.rollout.drain_seconds)},
    }


def _gpus(
    spec: ModelServiceSpec, variant: Variant, replicas: int, base: FleetSettings
) -> tuple[int, ...]:
    """Return this machine's cards, the first ones unless the settings name others."""
    mine = base.kind is FleetKind.LOCAL and spec.engine.kind is not Engine.SIMULATED
    if not mine or variant.accelerator is None:
        return ()
    return base.gpus or tuple(range(replicas * variant.tensor_parallel))


def _ray(spec: ModelServiceSpec, variant: Variant, base: FleetSettings) -> dict[str, Any]:
    ray = base.ray.model_dump()
    if spec.engine.kind is not Engine.SIMULATED:
        ray["cards_per_node"] = variant.cards_per_node
    if variant.resources.cpu is not None:
        ray["cpus_per_node"] = _cores(variant.resources.cpu)
    return ray


def _cores(quantity: str) -> float:
    """Return a quantity of CPU as a number; units beyond ``m`` make no sense for it."""
    number = quantity.rstrip("mkMGTi")
    if quantity == number:
        return float(number)
    if quantity == f"{number}m":
        return float(number) / 1_000
    raise ConfigError("spec.variants[0].resources.cpu: cores are needed, e.g. 4 or 500m")


def _simulated(spec: ModelServiceSpec, base: FleetSettings) -> dict[str, Any]:
    values = base.simulated.model_dump()
    values |= {
        "hardware": spec.engine.simulated.hardware,
        "model": spec.engine.simulated.model,
        "enable_lora": spec.lora is not None,
    }
    if spec.lora is not None:
        values["max_loras"] = spec.lora.max_loras
        values["max_cpu_loras"] = spec.lora.max_cpu_loras
    return values


def _lora_flags(spec: ModelServiceSpec) -> tuple[list[str], dict[str, str]]:
    """Return what lets vLLM load adapters; the simulated engine has settings for it."""
    if spec.lora is None or spec.engine.kind is not Engine.VLLM:
        return [], {}
    lora = spec.lora
    options = vllm.LoraOptions(lora.max_loras, lora.max_cpu_loras, lora.max_rank)
    return options.args, dict(vllm.LORA_ENV)
