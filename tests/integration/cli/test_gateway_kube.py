"""``headrace gateway --kube`` over the pods of a cluster."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
import yaml

from headrace.runtime.pods import ENDPOINT_ANNOTATION, SERVICE_LABEL
from headrace.service.kube.resource import PODS
from tests.support.fake_kube import FakeKube
from tests.support.serving_command import Serving, start_serving

LIMIT_S = 30.0


@pytest.fixture
def ports() -> Iterator[list[int]]:
    """Two simulated engines; their ports."""
    command = [sys.executable, "-m", "headrace.simulator.http", "--count", "2"]
    process = subprocess.Popen(
        [*command, "--time-scale", "20", "--served-name", "tiny"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        told = json.loads(process.stdout.readline())["engines"]
        yield [urlsplit(engine["url"]).port or 0 for engine in told]
    finally:
        process.kill()
        process.communicate(timeout=20)


def pod(name: str, port: int, namespace: str = "ns") -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {SERVICE_LABEL: "chat"},
            "annotations": {ENDPOINT_ANNOTATION: json.dumps({"port": port, "simulated": True})},
        },
        "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 60},
        "status": {
            "phase": "Running",
            "podIP": "127.0.0.1",
            "conditions": [{"type": "ContainersReady", "status": "True"}],
        },
    }


def kubeconfig(kube: FakeKube, path: Path) -> Path:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": kube.url}}],
        "users": [{"name": "c", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    }
    path.write_text(yaml.safe_dump(config))
    return path


async def started(kube: FakeKube, folder: Path, until: str) -> Serving:
    config = folder / "gateway.yaml"
    config.write_text(yaml.safe_dump({"log": {"form": "json"}, "probe": {"period_s": 0.2}}))
    words = ["gateway", "--config", str(config), "--port", "0", "--kube", "--namespace", "ns"]
    words += ["--kubeconfig", str(kubeconfig(kube, folder / "kubeconfig"))]
    return await asyncio.to_thread(start_serving, *words, log=folder / "log", until=until)


async def ask(session: aiohttp.ClientSession, gateway: Serving) -> int:
    body = {"model": "tiny", "prompt": "hello", "max_tokens": 4}
    async with session.post(f"{gateway.url}/v1/completions", json=body) as reply:
        await reply.read()
        return reply.status


async def endpoint_of_last(session: aiohttp.ClientSession, gateway: Serving) -> str:
    async with session.get(f"{gateway.url}/headrace/v1/decisions?limit=1") as reply:
        (found,) = (await reply.json())["data"]
        return str(found["endpoint"])


async def until_status(session: aiohttp.ClientSession, gateway: Serving, status: int) -> None:
    async with asyncio.timeout(LIMIT_S):
        while await ask(session, gateway) != status:  # noqa: ASYNC110 -- nothing tells us
            await asyncio.sleep(0.02)


async def test_it_serves_from_pods_as_they_come_and_go(ports: list[int], tmp_path: Path) -> None:
    async with FakeKube() as kube, aiohttp.ClientSession() as session:
        kube.put(PODS, pod("a", ports[0]))
        kube.put(PODS, pod("elsewhere", ports[1], "other"))
        gateway = await started(kube, tmp_path, "looks for pods")
        try:
            # A pod that is ready has been looked at before the first connection is accepted.
            assert await ask(session, gateway) == 200
            assert await endpoint_of_last(session, gateway) == "ns/a"

            await kube.stop()
            assert await ask(session, gateway) == 200
            await kube.start()

            kube.remove(PODS, ("ns", "a"), now=False)
            await until_status(session, gateway, 503)
            kube.put(PODS, pod("b", ports[1]))
            await until_status(session, gateway, 200)
            assert await endpoint_of_last(session, gateway) == "ns/b"
        finally:
            assert await asyncio.to_thread(gateway.stop) == 0
            gateway.close()


async def test_it_stops_when_told_though_no_cluster_answers(tmp_path: Path) -> None:
    async with FakeKube() as kube:
        path = kubeconfig(kube, tmp_path / "kubeconfig")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "headrace.cli", "gateway", "--kube", "--port", "0"),
        *("--kubeconfig", str(path)),
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    async with asyncio.timeout(LIMIT_S):
        while b"kube_away" not in await process.stderr.readline():
            pass
        process.send_signal(signal.SIGTERM)
        await process.stderr.read()
        assert await process.wait() == 0


async def test_a_kubeconfig_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "headrace.cli", "gateway", "--kube"),
        *("--kubeconfig", str(tmp_path / "absent"), "--log-level", "error"),
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(LIMIT_S):
        _, told = await process.communicate()
    assert process.returncode == 2
    assert told.decode() == f"headrace: kubeconfig: no file {tmp_path / 'absent'}\n"


async def test_a_port_that_is_taken_is_told_in_one_line() -> None:
    server = await asyncio.start_server(lambda _, __: None, "127.0.0.1", 0)
    port = str(server.sockets[0].getsockname()[1])
    async with server, asyncio.timeout(LIMIT_S):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "headrace.cli", "gateway", "--port", port),
            *("--endpoint", "http://127.0.0.1:1", "--log-level", "error"),
            stderr=asyncio.subprocess.PIPE,
        )
        _, told = await process.communicate()
    assert process.returncode == 2
    assert told.decode().startswith("headrace: ")
    assert told.count(b"\n") == 1
