from __future__ import annotations

import json
from pathlib import Path

import pytest

from controller.fleets.config import FleetSettings
from controller.fleets.recipes import free_ports, plan, vllm_python
from headrace.core.endpoint import Role, Speed
from headrace.core.errors import ConfigError
from headrace.service.settings import load_settings
from headrace.simulator.config import SimulatorSettings


def make(**values: object) -> FleetSettings:
    return load_settings(FleetSettings, None, values)


def vllm(tmp_path: Path, **values: object) -> FleetSettings:
    model = tmp_path / "small"
    model.mkdir(exist_ok=True)
    (model / "config.json").write_text("{}")
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    return make(engine="vllm", model=str(model), python=str(python), **values)


def test_the_default_is_four_simulated_engines() -> None:
    settings = make()
    assert (settings.engine, settings.replicas) == ("simulated", 4)
    assert settings.name_served == settings.simulated.names()[0]


def test_vllm_without_a_model_is_refused_and_says_what_is_missing() -> None:
    with pytest.raises(ConfigError, match="model: needed when engine is vllm"):
        make(engine="vllm")


def test_an_unknown_key_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"gpu: unknown key; known here: .*gpus"):
        make(gpu=1)


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"gpus": [0], "replicas": 2}, "gpus: 2 replica"),
        ({"gpus": [0, 0], "replicas": 1}, "an index is given twice"),
        ({"tp": 2, "replicas": 1}, "tp: more than 1 needs gpus"),
        ({"roles": ["prefill", "decode"], "replicas": 3}, "roles: 2 given for 3"),
        ({"roles": ["prefill"], "replicas": 1}, "roles: at least one replica"),
    ],
)
def test_cards_that_do_not_add_up_are_refused(values: dict[str, object], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        make(engine="vllm", model="m", **values)


def test_the_served_name_is_the_last_part_of_the_models(tmp_path: Path) -> None:
    assert vllm(tmp_path).name_served == "small"
    assert make(engine="vllm", model="org/Name-8B").name_served == "Name-8B"
    assert make(engine="vllm", model="org/Name-8B", served_name="n").name_served == "n"


def test_free_ports_are_different() -> None:
    assert len(set(free_ports(20))) == 20


def test_vllm_that_is_not_installed_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="scripts/install-vllm"):
        vllm_python(make(engine="vllm", model="m"))


def test_a_python_that_cannot_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"fleet\.python: .*absent"):
        vllm_python(make(engine="vllm", model="m", python=str(tmp_path / "absent")))


def test_a_model_folder_that_is_none_stops_the_start(tmp_path: Path) -> None:
    settings = vllm(tmp_path).model_copy(update={"model": str(tmp_path / "absent")})
    with pytest.raises(ConfigError, match=r"fleet\.model: there is no folder"):
        plan(settings, tmp_path, tmp_path)
    (tmp_path / "empty").mkdir()
    settings = settings.model_copy(update={"model": str(tmp_path / "empty")})
    with pytest.raises(ConfigError, match=r"fleet\.model: .* has no config\.json"):
        plan(settings, tmp_path, tmp_path)


def test_engines_on_cpu_share_one_image_and_engines_on_gpus_do_not(tmp_path: Path) -> None:
    cpu = plan(vllm(tmp_path, replicas=2), tmp_path, tmp_path)
    assert cpu.python == tmp_path / "python"
    assert cpu.spawner_env["TORCH_COMPILE_DISABLE"] == "1"
    assert sorted(cpu.recipes) == ["vllm-0", "vllm-1"]
    gpu = plan(vllm(tmp_path, replicas=2, gpus=[4, 5, 6, 7], tp=2), tmp_path, tmp_path)
    assert gpu.python != tmp_path / "python"
    launch = gpu.recipes["vllm-1"]("vllm-1")
    assert launch.program[0] == str(tmp_path / "python")
    assert launch.env["CUDA_VISIBLE_DEVICES"] == "6,7"


def test_simulated_engines_are_one_process_with_a_port_each(tmp_path: Path) -> None:
    planned = plan(make(replicas=3, **{"simulated.hardware": "L4"}), tmp_path, tmp_path)
    launch = planned.recipes["sim"]("sim")
    assert len(set(launch.ports)) == 3
    assert (tmp_path / "sim.settings.json").exists()


def test_simulated_engines_of_one_process_have_roles_of_their_own(tmp_path: Path) -> None:
    settings = make(replicas=2, roles=["prefill", "decode"])
    launch = plan(settings, tmp_path, tmp_path).recipes["sim"]("sim")
    assert launch.roles == (Role.PREFILL, Role.DECODE)
    written = load_settings(SimulatorSettings, tmp_path / "sim.settings.json", {})
    assert [written.role_of(index) for index in range(2)] == [Role.PREFILL, Role.DECODE]


def test_each_vllm_has_its_role_a_connector_and_a_side_channel_of_its_own(tmp_path: Path) -> None:
    settings = vllm(tmp_path, replicas=3, roles=["prefill", "decode", "both"])
    recipes = plan(settings, tmp_path, tmp_path).recipes
    launches = [recipes[f"vllm-{index}"]("x") for index in range(3)]
    assert [launch.roles for launch in launches] == [(Role.PREFILL,), (Role.DECODE,), (Role.BOTH,)]
    configs = [
        json.loads(launch.args[launch.args.index("--kv-transfer-config") + 1])
        for launch in launches[:2]
    ]
    assert configs == [
        {"kv_role": "kv_producer", "kv_connector": "NixlConnector"},
        {"kv_role": "kv_consumer", "kv_connector": "NixlConnector"},
    ]
    assert "--kv-transfer-config" not in launches[2].args
    side_channels = {launch.env.get("VLLM_NIXL_SIDE_CHANNEL_PORT") for launch in launches}
    assert len(side_channels) == 3


def test_a_connector_of_the_users_own_is_taken_as_it_is(tmp_path: Path) -> None:
    own = {"kv_connector": "Own", "kv_role": "kv_both", "kv_connector_module_path": "own"}
    settings = vllm(tmp_path, replicas=2, roles=["prefill", "decode"], kv_transfer=own)
    launch = plan(settings, tmp_path, tmp_path).recipes["vllm-0"]("x")
    assert json.loads(launch.args[launch.args.index("--kv-transfer-config") + 1]) == own


def test_the_rate_of_transfers_is_the_simulated_one_or_what_the_user_says(tmp_path: Path) -> None:
    simulated = make(simulated={"kv_transfer_bytes_per_s": 131_072e3})
    assert simulated.speed.transfer_tokens_per_s == 1_000.0
    assert vllm(tmp_path).speed == Speed()
    assert vllm(tmp_path, transfer_tokens_per_s=5e3).speed.transfer_tokens_per_s == 5e3
