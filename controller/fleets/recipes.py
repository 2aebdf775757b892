"""From settings to the processes that make the fleet. Reads the file system; starts nothing."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Protocol

from controller.fleets.config import VLLM_HERE, FleetSettings
from controller.fleets.unit import Recipe
from headrace.core.endpoint import Role
from headrace.core.errors import ConfigError
from headrace.runtime.engines import simulated, vllm
from headrace.runtime.engines.launch import EngineKind, Launch

SIMULATED_UNIT: Final = "sim"
PACKAGE_ROOT: Final = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """What to run.

    Attributes:
        python: The interpreter of the spawner.
        spawner_env: Set before the engine is imported.
        recipes: One per process, by the process's name.

    """

    python: Path
    spawner_env: Mapping[str, str]
    recipes: Mapping[str, Recipe]


class Planner(Protocol):
    """Turns settings into processes."""

    def __call__(self, settings: FleetSettings, state_dir: Path, run_dir: Path) -> FleetPlan:
        """Return what to run; files go into ``state_dir``, sockets into ``run_dir``."""
        ...


def plan(settings: FleetSettings, state_dir: Path, run_dir: Path) -> FleetPlan:
    """Return what to run for ``settings``; files go into ``state_dir``, sockets into ``run_dir``.

    Raises:
        ConfigError: if the engine is not installed or the model folder is not one.

    """
    events_dir = run_dir if settings.kv_events else None
    if settings.engine is EngineKind.SIMULATED:
        return _simulated(settings, state_dir, events_dir)
    return _vllm(settings, events_dir)


def free_ports(count: int) -> tuple[int, ...]:
    """Return ports of loopback that nobody listens on, all different."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return tuple(int(each.getsockname()[1]) for each in sockets)


def _simulated(settings: FleetSettings, state_dir: Path, events_dir: Path | None) -> FleetPlan:
    own = {"served_names": (settings.name_served,), "tp": settings.tp or settings.simulated.tp}
    engine = settings.simulated.model_copy(update=own)
    options = simulated.SimulatedOptions(
        python=settings.own_python,
        package_root=PACKAGE_ROOT,
        engine=engine.model_dump(mode="json"),
        time_scale=settings.time_scale,
        seed=settings.seed,
        finish_s=settings.timeouts.finish_s,
        run_dir=events_dir,
        roles=settings.roles,
        extra_args=settings.engine_args,
        extra_env=settings.env,
    )

    def recipe(life: str) -> Launch:
        ports = free_ports(settings.replicas)
        file = state_dir / f"{SIMULATED_UNIT}.settings.json"
        file.write_text(json.dumps(simulated.settings(options, life, ports), indent=1))
        return simulated.launch(options, life, ports, file)

    return FleetPlan(settings.own_python, {}, {SIMULATED_UNIT: recipe})


def _vllm(settings: FleetSettings, events_dir: Path | None) -> FleetPlan:
    options = vllm.VllmOptions(
        python=vllm_python(settings),
        model=_model(settings),
        served_name=settings.name_served,
        max_model_tokens=settings.max_model_tokens,
        kv_cache_bytes=settings.kv_cache_bytes,
        max_queued_requests=settings.max_queued_requests,
        max_output_tokens=settings.max_output_tokens,
        finish_s=settings.timeouts.finish_s,
        run_dir=events_dir,
        extra_args=settings.engine_args,
        extra_env=settings.env,
    )
    recipes = {
        f"vllm-{index}": _one_vllm(settings, options, index) for index in range(settings.replicas)
    }
    if not settings.preforks:
        return FleetPlan(settings.own_python, {}, recipes)
    spawner_env = {**vllm.environment(options), **settings.env}
    return FleetPlan(options.python, spawner_env, recipes)


def _one_vllm(settings: FleetSettings, options: vllm.VllmOptions, index: int) -> Recipe:
    gpus = settings.gpus[index * settings.cards : (index + 1) * settings.cards]
    role = settings.roles[index] if settings.roles else Role.BOTH
    own = replace(options, gpus=gpus, role=role, kv_transfer=settings.kv_transfer)

    def recipe(life: str) -> Launch:
        port, side_channel = free_ports(2)
        launch = vllm.launch(own, life, port)
        if role is not Role.BOTH:
            launch = replace(launch, env={vllm.NIXL_PORT: str(side_channel), **launch.env})
        return replace(launch, program=("vllm",)) if settings.preforks else launch

    return recipe


def vllm_python(settings: FleetSettings) -> Path:
    """Return the interpreter that has vLLM.

    Raises:
        ConfigError: when there is none, with how to get one.

    """
    if settings.python is not None:
        python = Path(os.path.abspath(settings.python))
        if os.access(python, os.X_OK):
            return python
        raise ConfigError(f"fleet.python: {settings.python} is not an executable file")
    here = Path(os.path.abspath(VLLM_HERE))
    if os.access(here, os.X_OK):
        return here
    if find_spec("vllm") is not None:
        return settings.own_python
    raise ConfigError(
        "fleet.engine: vLLM is not installed. Install its CPU build with scripts/install-vllm, "
        "or name the Python of an environment that has vLLM in fleet.python"
    )


def _model(settings: FleetSettings) -> str:
    """Return the model as vLLM should get it: engines run in another folder than we do.

    Raises:
        ConfigError: when it looks like a folder and is none.

    """
    assert settings.model is not None
    path = Path(settings.model).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ConfigError(f"fleet.model: {path} has no config.json, so it holds no model")
        return str(path.resolve())
    if settings.model.startswith(("/", ".", "~")):
        raise ConfigError(f"fleet.model: there is no folder {path}")
    return settings.model
