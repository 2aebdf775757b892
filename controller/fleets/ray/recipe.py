"""A replica's engine as a node of a cluster runs it: the local recipe, open to other nodes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from controller.fleets.config import VLLM_HERE, FleetSettings
from controller.fleets.ray.shape import cards_per_node, role_of
from controller.fleets.recipes import FleetPlan, Planner, free_ports, plan
from controller.fleets.unit import Recipe
from headrace.core.endpoint import KvEventSource
from headrace.runtime.engines.launch import EngineKind, Launch

VLLM_CLI: Final = "vllm.entrypoints.cli.main"
"""Only ``vllm serve`` takes ``--headless``. Source: vLLM 0.32.0, entrypoints/cli/serve.py."""


@dataclass(frozen=True, slots=True)
class Group:
    """The nodes of one replica.

    Attributes:
        count: How many.
        master: Address of the first, which the engine serves from.
        port: Where its torch.distributed group meets.

    """

    count: int
    master: str
    port: int


def settled(settings: FleetSettings) -> FleetSettings:
    """Return the settings with paths that mean the same wherever they are read.

    An interpreter or model folder that this machine lacks is left to the nodes to find. Looks at
    the file system.
    """
    python = settings.python
    if python is not None:
        python = python.absolute()
    elif settings.engine is EngineKind.VLLM and VLLM_HERE.exists():
        python = VLLM_HERE.absolute()
    model = settings.model
    if settings.engine is EngineKind.VLLM and model is not None and Path(model).is_dir():
        model = str(Path(model).resolve())
    served = settings.name_served
    return settings.model_copy(update={"python": python, "model": model, "served_name": served})


def own_settings(settings: FleetSettings, index: int, gpus: Sequence[int]) -> FleetSettings:
    """Return the settings of one replica by itself, on a node that gave it ``gpus``."""
    restart = settings.restart
    if settings.nodes > 1:
        # The shares of an engine end together: what restarts is the replica, not its first node.
        restart = restart.model_copy(update={"limit": 1, "limit_before_ready": 1})
    return settings.model_copy(
        update={
            "replicas": 1,
            "roles": (role_of(settings, index),),
            "gpus": tuple(gpus) if settings.engine is EngineKind.VLLM else (),
            "tp": settings.tp if settings.engine is EngineKind.SIMULATED else max(1, len(gpus)),
            # A fork server would import the engine once per replica, which wins nothing here.
            "prefork": False,
            "restart": restart,
        }
    )


def planner(fleet: FleetSettings, host: str, group: Group | None) -> Planner:
    """Return how a node at ``host`` turns the settings of one replica into its process.

    Args:
        fleet: The fleet's settings.
        host: The node's address.
        group: The replica's nodes, when it has several.

    """
    parallel = parallel_args(fleet, group, rank=0)

    def planned(settings: FleetSettings, state_dir: Path, run_dir: Path) -> FleetPlan:
        made = plan(settings, state_dir, run_dir)
        opened = {
            name: _opened(recipe, settings.engine, host, parallel)
            for name, recipe in made.recipes.items()
        }
        return replace(made, recipes=opened)

    return planned


def _opened(recipe: Recipe, engine: EngineKind, host: str, more: Sequence[str]) -> Recipe:
    def opened(life: str) -> Launch:
        return on_network(recipe(life), engine, host, free_ports(2), more)

    return opened


def on_network(
    launch: Launch, engine: EngineKind, host: str, ports: Sequence[int], more: Sequence[str] = ()
) -> Launch:
    """Return the process listening on ``host``, its KV events on ``ports`` there.

    Later arguments win over earlier ones, in vLLM's command line and in the simulated engine's.
    """
    args = [*launch.args, "--host", host, *more]
    events: tuple[KvEventSource, ...] = ()
    if launch.kv_events:
        (local,) = launch.kv_events
        # Both bind an address with a star and connect to any other.
        bound = [f"tcp://*:{port}" for port in ports]
        topic = local.topic
        events = (KvEventSource(f"tcp://{host}:{ports[0]}", f"tcp://{host}:{ports[1]}", topic),)
        args += event_args(engine, bound[0], bound[1], topic)
    return replace(launch, args=tuple(args), host=host, kv_events=events)


def event_args(engine: EngineKind, endpoint: str, replay: str, topic: str) -> list[str]:
    """Return the arguments that have an engine publish its KV events there."""
    if engine is EngineKind.SIMULATED:
        return ["--kv-events-endpoint", endpoint, "--kv-replay-endpoint", replay]
    config = {
        "enable_kv_cache_events": True,
        "publisher": "zmq",
        "endpoint": endpoint,
        "replay_endpoint": replay,
        "topic": topic,
    }
    return ["--kv-events-config", json.dumps(config)]


def parallel_args(settings: FleetSettings, group: Group | None, rank: int) -> list[str]:
    """Return the arguments that share an engine out over the nodes of ``group``.

    vLLM's own processes meet over torch.distributed; its Ray executor would reserve the cards a
    second time. Source: vLLM 0.32.0, --nnodes, --node-rank, --master-addr, --master-port.
    """
    if settings.engine is EngineKind.SIMULATED:
        return []
    flags = []
    if settings.pp > 1 or (group is not None and cards_per_node(settings)):
        flags += ["--tensor-parallel-size", str(settings.cards)]
        flags += ["--pipeline-parallel-size", str(settings.pp)]
    if group is not None:
        flags += ["--distributed-executor-backend", "mp", "--nnodes", str(group.count)]
        flags += ["--node-rank", str(rank), "--master-addr", group.master]
        flags += ["--master-port", str(group.port)]
    return flags


def share(
    settings: FleetSettings, own: FleetSettings, group: Group, rank: int, folder: Path
) -> Launch | None:
    """Return the process of a node that is not the first, or None when the engine has none there.

    Args:
        settings: The fleet's.
        own: Of this replica on this node.
        group: The replica's nodes.
        rank: Which of them this is, from 1.
        folder: Where it keeps its files.

    """
    if settings.engine is EngineKind.SIMULATED:
        return None
    quiet = own.model_copy(update={"kv_events": False})
    (recipe,) = plan(quiet, folder, folder).recipes.values()
    launch = recipe(f"share-{rank}")
    more = [*parallel_args(settings, group, rank), "--headless"]
    program = (launch.program[0], "-W", "ignore", "-m", VLLM_CLI, "serve")
    return replace(launch, program=program, args=(*launch.args, *more), ports=())
