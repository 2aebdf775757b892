"""A real vLLM on CPU, with a tiny random model, serves on the cluster.

Its image would be 6.7 GB: the environment of ``scripts/install-vllm`` is mounted into a small one
instead, which the nodes can do because they are on this machine.
"""

from __future__ import annotations

import json
import os
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.kube.counted import Counted
from tests.e2e.kube.load import Load
from tests.e2e.kube.stack import IMAGE, MODELS, Stack
from tests.kube.cluster import Cluster
from tests.kube.processes import run
from tests.support.vllm_env import PYTHON, ROOT, make_model

pytestmark = pytest.mark.kube

NAME = "real"
START_S = 400.0
PACKAGES = PYTHON.parents[1] / "lib/python3.11/site-packages"
"""For Python 3.11, which is the image's."""

WHERE_NUMA = """
import ctypes
ctypes.CDLL("libnuma.so.1")
print(next(line.split()[-1] for line in open("/proc/self/maps") if "libnuma" in line))
"""
NUMA_AT = "/opt/numa/libnuma.so.1"
PROMPT = "Say in your own words what a cache of prefixes is for, and when it does not help. " * 4


@pytest.fixture(scope="module", autouse=True)
def service(stack: Stack) -> Iterator[None]:
    """A service of one vLLM."""
    _require(stack)
    stack.apply(NAME, **_spec(max_num_seqs=8))
    yield
    stack.kubectl("delete", "modelservice", NAME, "--wait=false")
    stack.until("it is gone", lambda: not stack.pods(NAME))


def test_its_pod_is_ready_once_it_has_generated(stack: Stack, counted: Counted) -> None:
    took_s = stack.until(
        "it is ready", lambda: _unharmed(stack) and stack.settled(NAME, 1), START_S
    )
    counted.figures["vllm.ready_s"] = round(took_s, 1)
    assert _metric(_engine_metrics(stack), "vllm:generation_tokens_total") >= 1
    assert _metric(_engine_metrics(stack), "vllm:request_success_total") >= 1


def test_it_answers_through_the_deployed_gateway(stack: Stack) -> None:
    stack.first_token_s(NAME, 60)
    reply = _ask(stack, "Hello")
    assert reply["model"] == NAME
    assert reply["usage"]["completion_tokens"] == 8
    assert reply["choices"][0]["message"]["content"]


def test_what_its_cache_holds_reaches_the_gateway(stack: Stack) -> None:
    [pod] = stack.alive(NAME)
    endpoint = f'{{endpoint="{MODELS}/{pod["metadata"]["name"]}"}}'
    first = _ask(stack, PROMPT)
    assert first["usage"]["prompt_tokens"] > 64
    stack.until(
        "the gateway knows its blocks",
        lambda: _metric(_gateway_metrics(stack), "headrace_prefix_blocks", endpoint) >= 2,
        20,
    )
    again = _ask(stack, PROMPT)
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] >= 64


def test_the_old_one_serves_until_the_new_one_is_ready(stack: Stack, counted: Counted) -> None:
    [before] = stack.pods(NAME)
    with Load(stack.url, NAME, streams=1, tokens=32) as load:
        stack.apply(NAME, **_spec(max_num_seqs=4))
        took_s = stack.until(
            "it is exchanged",
            lambda: (
                stack.settled(NAME, 1)
                and stack.pods(NAME)[0]["metadata"]["uid"] != before["metadata"]["uid"]
            ),
            START_S,
        )
    counted.figures["vllm.rollout_s"] = round(took_s, 1)
    counted.streams("vllm_rollout", load.counts)
    assert load.counts.requests > 0
    assert load.counts.samples == []
    [after] = stack.alive(NAME)
    [engine] = after["spec"]["containers"]
    assert engine["args"][-2:] == ["--max-num-seqs", "4"]


def _require(stack: Stack) -> None:
    """Skip by name where there is no vLLM; in CI that is a failure."""
    if not isinstance(stack.cluster, Cluster):
        pytest.skip("the nodes of a cluster elsewhere do not see the folders of this machine")
    if os.access(PYTHON, os.X_OK) and PACKAGES.is_dir():
        return
    why = f"no vLLM for Python 3.11 at {PYTHON.relative_to(ROOT)}: run scripts/install-vllm"
    if os.environ.get("HEADRACE_REQUIRE_VLLM") == "1" or os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)


def _spec(max_num_seqs: int) -> dict[str, Any]:
    model = make_model()
    for file in model.iterdir():
        file.chmod(
            0o644
        )  # weights are written for their owner alone, and the image's user is another
    numa = Path(run([PYTHON, "-c", WHERE_NUMA]).strip())
    env = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(PACKAGES),
        "LD_LIBRARY_PATH": str(Path(NUMA_AT).parent),
        "HF_HUB_OFFLINE": "1",
    }
    mounted = {"packages": (PACKAGES, PACKAGES), "model": (model, model), "numa": (numa, NUMA_AT)}
    return {
        "model": {"source": str(model)},
        "engine": {
            "kind": "vllm",
            "image": IMAGE,
            "args": ["--max-num-seqs", str(max_num_seqs)],
            "env": [{"name": name, "value": value} for name, value in env.items()],
        },
        "variants": [{"name": "cpu", "resources": {"cpu": "500m", "memory": "3Gi"}}],
        "rollout": {"drainSeconds": 60, "progressDeadlineSeconds": int(START_S)},
        "pod": {
            "volumes": [
                {"name": name, "hostPath": {"path": str(path)}}
                for name, (path, _) in mounted.items()
            ],
            "volumeMounts": [
                {"name": name, "mountPath": str(at), "readOnly": True}
                for name, (_, at) in mounted.items()
            ],
        },
    }


def _unharmed(stack: Stack) -> bool:
    """Whether no engine has ended by itself; its log is shown if one has."""
    for pod in stack.alive(NAME):
        for container in pod.get("status", {}).get("containerStatuses", ()):
            if container["restartCount"]:
                name = pod["metadata"]["name"]
                pytest.fail(stack.kubectl("logs", name, "-c", "engine", "--previous", "--tail=60"))
    return True


def _ask(stack: Stack, prompt: str) -> dict[str, Any]:
    body = {"model": NAME, "max_tokens": 8, "ignore_eos": True}
    request = urllib.request.Request(
        f"{stack.url}/v1/chat/completions",
        json.dumps({**body, "messages": [{"role": "user", "content": prompt}]}).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        answer: dict[str, Any] = json.load(reply)
    return answer


def _engine_metrics(stack: Stack) -> str:
    """Return the engine's own page, which the API server fetches from its pod."""
    [pod] = stack.alive(NAME)
    path = f"/api/v1/namespaces/{MODELS}/pods/{pod['metadata']['name']}:8000/proxy/metrics"
    return stack.kubectl("get", "--raw", path)


def _gateway_metrics(stack: Stack) -> str:
    with urllib.request.urlopen(f"{stack.url}/metrics", timeout=10) as reply:
        return str(reply.read().decode())


def _metric(page: str, name: str, labels: str | None = None) -> float:
    """Return the sum of a metric's series, or of those with just these labels."""
    wanted = r"(?:\{.*\})?" if labels is None else re.escape(labels)
    return sum(float(value) for value in re.findall(rf"^{name}{wanted} (\S+)$", page, re.MULTILINE))
