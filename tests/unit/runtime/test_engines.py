from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from headrace.runtime.engines import simulated, vllm
from headrace.simulator.config import SimulatorSettings

CPU = vllm.VllmOptions(Path("/v/python"), "/models/m", "m", run_dir=Path("/run/x"))
GPU = replace(CPU, gpus=(2, 3))


def flag(options: vllm.VllmOptions, name: str) -> str | None:
    args = vllm.launch(options, "w", 8101).args
    return args[args.index(name) + 1] if name in args else None


def test_every_vllm_is_given_time_to_finish_on_sigterm() -> None:
    assert flag(replace(CPU, finish_s=7), "--shutdown-timeout") == "7"
    assert flag(GPU, "--shutdown-timeout") == "20"


def test_every_vllm_reports_cached_tokens_and_request_ids_and_bounds_its_queue() -> None:
    for options in (CPU, GPU):
        args = vllm.launch(options, "w", 8101).args
        assert "--enable-prompt-tokens-details" in args
        assert "--enable-request-id-headers" in args
        assert flag(options, "--max-num-queued-reqs") == "1024"


def test_on_cpu_blocks_are_small_and_context_and_cache_are_bounded() -> None:
    assert flag(CPU, "--block-size") == "32"
    assert flag(CPU, "--max-model-len") == "4096"
    assert flag(CPU, "--kv-cache-memory-bytes") == str(256 << 20)
    env = vllm.environment(CPU)
    assert env["TORCH_COMPILE_DISABLE"] == "1"
    assert env["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert "CUDA_VISIBLE_DEVICES" not in env


def test_on_gpus_the_engine_keeps_its_defaults_and_sees_only_its_cards() -> None:
    for name in ("--block-size", "--max-model-len", "--kv-cache-memory-bytes"):
        assert flag(GPU, name) is None
    assert "--enforce-eager" not in vllm.launch(GPU, "w", 8101).args
    assert flag(GPU, "--tensor-parallel-size") == "2"
    assert vllm.environment(GPU)["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert "TORCH_COMPILE_DISABLE" not in vllm.environment(GPU)


def test_arguments_and_variables_of_the_user_come_last_and_win() -> None:
    options = replace(CPU, extra_args=("--block-size", "64"), extra_env={"OMP_NUM_THREADS": "2"})
    launch = vllm.launch(options, "w", 8101)
    assert launch.args[-2:] == ("--block-size", "64")
    assert launch.env["OMP_NUM_THREADS"] == "2"


def test_a_cap_on_output_is_passed_as_vllm_wants_it() -> None:
    cap = flag(replace(CPU, max_output_tokens=99), "--override-generation-config")
    assert cap is not None
    assert json.loads(cap) == {"max_new_tokens": 99}
    assert flag(CPU, "--override-generation-config") is None


def test_kv_events_are_published_on_sockets_of_each_engines_own() -> None:
    one, two = vllm.launch(CPU, "w0", 1), vllm.launch(CPU, "w1", 2)
    assert one.kv_events[0].events == "ipc:///run/x/w0.ev"
    assert {*_addresses(one)}.isdisjoint(_addresses(two))
    config = json.loads(one.args[one.args.index("--kv-events-config") + 1])
    assert config["enable_kv_cache_events"] is True
    assert config["replay_endpoint"] == one.kv_events[0].replay


def test_without_a_folder_for_sockets_there_are_no_kv_events() -> None:
    launch = vllm.launch(replace(CPU, run_dir=None), "w", 1)
    assert launch.kv_events == ()
    assert "--kv-events-config" not in launch.args


def test_the_simulated_engines_settings_are_ones_it_accepts() -> None:
    options = simulated.SimulatedOptions(
        python=Path("/p"),
        package_root=Path("/src"),
        engine={"hardware": "L4", "served_names": ["m"]},
        time_scale=3.0,
        run_dir=Path("/run/x"),
    )
    values = SimulatorSettings.model_validate(simulated.settings(options, "sim", (7001, 7002)))
    assert (values.ports, values.count, values.time_scale) == ((7001, 7002), 2, 3.0)
    launch = simulated.launch(options, "sim", (7001, 7002), Path("s.json"))
    assert launch.ports == (7001, 7002)
    assert launch.env["PYTHONPATH"] == "/src"
    for index, events in enumerate(launch.kv_events):
        assert values.kv_events.endpoint.replace("{engine}", str(index)) == events.events


def _addresses(launch: object) -> list[str]:
    assert hasattr(launch, "kv_events")
    return [address for each in launch.kv_events for address in (each.events, each.replay)]
