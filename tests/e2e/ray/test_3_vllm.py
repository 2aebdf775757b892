from __future__ import annotations

import os

import psutil
import pytest

from tests.e2e.ray.conftest import Figures, Start
from tests.e2e.ray.machines import Machines, engines, eventually, marked
from tests.support.vllm_env import PYTHON, make_model

START_S = 240.0
API_SERVER = "vllm.entrypoints.openai.api_server"


@pytest.mark.vllm
def test_a_real_vllm_serves_under_ray(machines: Machines, start: Start, figures: Figures) -> None:
    if not os.access(PYTHON, os.X_OK):
        why = "vLLM is not installed: run scripts/install-vllm"
        required = os.environ.get("CI") == "true" or "HEADRACE_REQUIRE_VLLM" in os.environ
        (pytest.fail if required else pytest.skip)(why)
    up = start(
        {
            "engine": "vllm",
            "model": str(make_model()),
            "served_name": "small",
            "python": str(PYTHON),
            "replicas": 1,
            "max_model_tokens": 4_096,
            "kv_cache_bytes": 128 << 20,
            "engine_args": ["--dtype", "float32"],
            "env": {"HF_HUB_OFFLINE": "1"},
            "ray": {"cards_per_node": 0, "cpus_per_node": 2},
        }
    )
    figures["vllm.serving_s"] = up.wait_ready(1, START_S)
    answers = {up.ask("small", tokens=8) for _ in range(5)}
    figures["vllm.served"] = 5
    assert answers
    eventually(lambda: len(up.ready()) == 1, 10, up.tail)
    ((_, pid),) = up.ready().items()
    assert pid in engines(API_SERVER)
    parent = psutil.Process(pid).parent()
    assert parent is not None
    supervisor = parent.parent()
    assert supervisor is not None
    assert "Supervisor" in " ".join(supervisor.cmdline())
    up.stop()
    assert marked() == []
