"""The controller as a process, over an API server that is not real and pods that nobody runs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from controller.config import ControllerSettings
from controller.process import run_controller
from headrace.service.kube.resource import (
    CONTROLLER_REVISIONS,
    MODEL_SERVICES,
    PDBS,
    PODS,
    Key,
    key_of,
)
from tests.support.fake_kube import FakeKube

LIMIT_S = 10.0
SERVICE: Key = ("ns", "m")


def _kubeconfig(kube: FakeKube, folder: Path) -> Path:
    path = folder / "kubeconfig"
    named = {
        "clusters": [{"name": "c", "cluster": {"server": kube.url}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", **named}))
    return path


@asynccontextmanager
async def _running(kube: FakeKube, folder: Path) -> AsyncIterator[None]:
    settings = ControllerSettings.model_validate(
        {
            "kubeconfig": _kubeconfig(kube, folder),
            "lease": {"enabled": False},
            "host": "127.0.0.1",
            "port": 0,
        }
    )
    stop, ready = asyncio.Event(), asyncio.Event()
    running = asyncio.create_task(run_controller(settings, ready=lambda _: ready.set(), stop=stop))
    try:
        async with asyncio.timeout(LIMIT_S):
            await ready.wait()
        yield
    finally:
        stop.set()
        await asyncio.wait_for(running, LIMIT_S)


@pytest.fixture
async def kube() -> AsyncIterator[FakeKube]:
    async with FakeKube() as kube:
        yield kube


def _ask(kube: FakeKube, **spec: Any) -> None:
    kube.put(MODEL_SERVICES, {"metadata": {"namespace": "ns", "name": "m"}, "spec": spec})


def _pods(kube: FakeKube) -> dict[str, dict[str, Any]]:
    return {key[1]: pod for key, pod in kube.store.all(PODS).items()}


def _let_all_serve(kube: FakeKube) -> None:
    status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    for pod in _pods(kube).values():
        if pod.get("status") != status:
            kube.set_status(PODS, key_of(pod), status)


async def _until(kube: FakeKube, check: Callable[[], bool]) -> None:
    """Wait for something to hold; it can come to hold only when an object changes."""
    changed = asyncio.Event()
    kube.store.on_change.append(lambda _: changed.set())
    async with asyncio.timeout(LIMIT_S):
        while not check():
            await changed.wait()
            changed.clear()


def _status(kube: FakeKube) -> dict[str, Any]:
    found: dict[str, Any] = kube.store.all(MODEL_SERVICES)[SERVICE].get("status", {})
    return found


async def test_it_makes_what_is_asked_for_and_says_so(kube: FakeKube, tmp_path: Path) -> None:
    _ask(kube, replicas=2)
    async with _running(kube, tmp_path):
        await _until(kube, lambda: len(_pods(kube)) == 2)
        _let_all_serve(kube)
        await _until(kube, lambda: _status(kube).get("readyReplicas") == 2)
        assert list(kube.store.all(PDBS)) == [SERVICE]
        assert len(kube.store.all(CONTROLLER_REVISIONS)) == 1
        _ask(kube, replicas=1)
        await _until(kube, lambda: len(_pods(kube)) == 1)


async def test_a_pod_that_goes_right_after_it_was_made_is_made_again(
    kube: FakeKube, tmp_path: Path
) -> None:
    _ask(kube, replicas=1)
    async with _running(kube, tmp_path):
        await _until(kube, lambda: len(_pods(kube)) == 1)
        [before] = _pods(kube).values()
        await _until(kube, lambda: _status(kube).get("replicas") == 1)
        kube.remove(PODS, key_of(before))
        await _until(
            kube,
            lambda: (
                {pod["metadata"]["uid"] for pod in _pods(kube).values()}
                not in (set(), {before["metadata"]["uid"]})
            ),
        )


async def test_at_rest_and_after_a_restart_nothing_is_written(
    kube: FakeKube, tmp_path: Path
) -> None:
    _ask(kube, replicas=2)
    async with _running(kube, tmp_path):
        await _until(kube, lambda: len(_pods(kube)) == 2)
        _let_all_serve(kube)
        await _until(kube, lambda: _status(kube).get("readyReplicas") == 2)
    # Its last events are written by then; the next one finds nothing to do.
    before = kube.store.version
    async with _running(kube, tmp_path):
        await kube.watched("pods")
        await asyncio.sleep(0.5)  # long enough for whatever it might want to write
        assert kube.store.version == before
