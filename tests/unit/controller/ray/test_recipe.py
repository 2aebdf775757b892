from __future__ import annotations

from pathlib import Path

import pytest

from controller.fleets.config import FleetSettings
from controller.fleets.ray.plan import Phase
from controller.fleets.ray.recipe import (
    Group,
    on_network,
    own_settings,
    parallel_args,
    planner,
    settled,
    share,
)
from controller.fleets.ray.reports import (
    Assignment,
    Engine,
    Report,
    encode,
    read_assignment,
    read_report,
)
from headrace.core.endpoint import KvEventSource, Role
from headrace.runtime.engines.launch import EngineKind, Launch

GROUP = Group(2, "10.0.0.1", 2_222)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "python").write_text("#!/bin/sh\n")
    (tmp_path / "python").chmod(0o755)
    return tmp_path


def vllm(model: Path, **changes: object) -> FleetSettings:
    values = {"kind": "ray", "engine": "vllm", "model": str(model), "python": model / "python"}
    return FleetSettings.model_validate({**values, **changes})


def follows(args: tuple[str, ...], flag: str) -> str:
    """Return the last value of a flag, which is the one that counts."""
    at = len(args) - 1 - args[::-1].index(flag)
    return args[at + 1]


def test_an_engine_listens_where_other_nodes_reach_it() -> None:
    local = Launch(
        ("p",), ("--host", "127.0.0.1"), {}, (9,), (KvEventSource("ipc://a", "ipc://b", "kv"),)
    )
    made = on_network(local, EngineKind.SIMULATED, "10.0.0.1", (1, 2))
    assert made.host == follows(made.args, "--host") == "10.0.0.1"
    assert made.kv_events == (KvEventSource("tcp://10.0.0.1:1", "tcp://10.0.0.1:2", "kv"),)
    assert follows(made.args, "--kv-events-endpoint") == "tcp://*:1"
    real = on_network(local, EngineKind.VLLM, "10.0.0.1", (1, 2))
    assert '"replay_endpoint": "tcp://*:2"' in follows(real.args, "--kv-events-config")


def test_an_engine_without_events_gets_none() -> None:
    made = on_network(Launch(("p",), (), {}, (9,)), EngineKind.VLLM, "h", (1, 2))
    assert made.kv_events == ()
    assert made.args == ("--host", "h")


def test_a_replica_runs_on_the_cards_that_ray_gave_it(model: Path, tmp_path: Path) -> None:
    fleet = vllm(model, tp=2, replicas=3, roles=["prefill", "decode", "both"])
    own = own_settings(fleet, 1, (4, 6))
    planned = planner(fleet, "10.0.0.1", None)(own, tmp_path, tmp_path)
    (recipe,) = planned.recipes.values()
    launch = recipe("life")
    assert launch.env["CUDA_VISIBLE_DEVICES"] == "4,6"
    assert follows(launch.args, "--tensor-parallel-size") == "2"
    assert launch.roles == (Role.DECODE,)
    assert "--nnodes" not in launch.args


def test_an_engine_of_several_nodes_is_shared_out_over_them(model: Path, tmp_path: Path) -> None:
    fleet = vllm(model, tp=4, pp=2, nodes=2)
    own = own_settings(fleet, 0, (0, 1, 2, 3))
    (recipe,) = planner(fleet, "10.0.0.1", GROUP)(own, tmp_path, tmp_path).recipes.values()
    head = recipe("life").args
    other = share(fleet, own, GROUP, 1, tmp_path)
    assert other is not None
    for args, rank in ((head, "0"), (other.args, "1")):
        assert follows(args, "--tensor-parallel-size") == "4"
        assert follows(args, "--pipeline-parallel-size") == "2"
        assert follows(args, "--nnodes") == "2"
        assert follows(args, "--node-rank") == rank
        assert follows(args, "--master-addr") == "10.0.0.1"
        assert follows(args, "--master-port") == "2222"
    assert "--headless" in other.args
    assert "--headless" not in head
    assert other.program[-1] == "serve"


def test_a_simulated_engine_has_no_share_on_other_nodes(tmp_path: Path) -> None:
    fleet = FleetSettings.model_validate({"kind": "ray", "nodes": 2})
    assert share(fleet, own_settings(fleet, 0, ()), GROUP, 1, tmp_path) is None
    assert parallel_args(fleet, GROUP, 0) == []


def test_the_first_crash_of_an_engine_of_several_nodes_ends_its_replica(model: Path) -> None:
    assert own_settings(vllm(model, tp=2, nodes=2), 0, (0,)).restart.limit == 1
    assert own_settings(vllm(model), 0, (0,)).restart.limit == 5


def test_paths_mean_the_same_on_every_node(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model.parent)
    fleet = settled(vllm(Path(model.name), python=Path(model.name) / "python"))
    assert fleet.model == str(model)
    assert fleet.python == model / "python"
    assert fleet.name_served == model.name
    hub = settled(vllm(Path("org/name")))
    assert hub.model == "org/name"


def test_what_supervisors_are_told_and_tell_survives_the_way() -> None:
    told = Assignment("n", 3, "{}")
    assert read_assignment(encode(told)) == told
    report = Report(
        Phase.READY, "n", Engine("l", "u", "both", False), 7, 2, ("a", "b"), 1, "w", "l"
    )
    assert read_report(encode(report)) == report


def test_a_report_of_a_newer_version_is_read() -> None:
    assert read_report(b'{"phase":"ready","node":"n","more":1}').phase is Phase.READY
