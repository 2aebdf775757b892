"""How to start the simulated engine: many engines, one process, one port each. Pure.

Its settings are those of ``headrace.simulator.config``; they go through a file, since a command
line has a length and is seen by everyone on the machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from headrace.core.endpoint import KvEventSource, Role
from headrace.runtime.engines.launch import Launch

MODULE: Final = "headrace.simulator.http"


@dataclass(frozen=True, slots=True)
class SimulatedOptions:
    """One process of simulated engines.

    Attributes:
        python: The interpreter that has this package's dependencies.
        package_root: Folder that holds the package, for a checkout that is not installed.
        engine: Settings of every engine of the process, as its settings file has them.
        time_scale: Engine seconds per wall second.
        seed: Of generated text.
        finish_s: What requests in flight are given after SIGTERM.
        run_dir: A folder with a short path for sockets; None turns KV events off.
        roles: Of each engine; empty when all do both.
        extra_args: Appended to the command line.
        extra_env: Variables for the process.

    """

    python: Path
    package_root: Path
    engine: Mapping[str, object]
    time_scale: float = 1.0
    seed: int = 0
    finish_s: float = 20.0
    run_dir: Path | None = None
    roles: tuple[Role, ...] = ()
    extra_args: tuple[str, ...] = ()
    extra_env: Mapping[str, str] = field(default_factory=dict)


def launch(
    options: SimulatedOptions, name: str, ports: tuple[int, ...], settings_file: Path
) -> Launch:
    """Return the process that serves one engine on each of ``ports``.

    Args:
        options: What to run.
        name: Unique among the processes of the fleet; names sockets.
        ports: Free ports of loopback, at least one.
        settings_file: Where the caller has put ``settings(options, name, ports)``.

    """
    return Launch(
        program=(str(options.python), "-m", MODULE),
        args=("--config", str(settings_file), *options.extra_args),
        env={"PYTHONPATH": str(options.package_root), **options.extra_env},
        ports=ports,
        simulated=True,
        roles=options.roles,
        kv_events=tuple(
            _kv_events(options.run_dir, name, str(index)) for index in range(len(ports))
        )
        if options.run_dir
        else (),
    )


def settings(options: SimulatedOptions, name: str, ports: tuple[int, ...]) -> dict[str, object]:
    """Return the process's settings file as a value that JSON and YAML can write."""
    values: dict[str, object] = {
        "host": "127.0.0.1",
        "ports": list(ports),
        "count": len(ports),
        "time_scale": options.time_scale,
        "seed": options.seed,
        "drain_s": options.finish_s,
        "engine": dict(options.engine),
        "roles": [role.value for role in options.roles],
    }
    if options.run_dir is not None:
        events = _kv_events(options.run_dir, name, "{engine}")
        values["kv_events"] = {
            "enabled": True,
            "endpoint": events.events,
            "replay_endpoint": events.replay,
            "topic": events.topic,
        }
    return values


def _kv_events(run_dir: Path, name: str, engine: str) -> KvEventSource:
    """Addresses of one engine; "{engine}" stands for its index in the settings file."""
    return KvEventSource(
        events=f"ipc://{run_dir}/{name}-{engine}.ev",
        replay=f"ipc://{run_dir}/{name}-{engine}.rp",
        topic=f"kv@{name}-{engine}",
    )
