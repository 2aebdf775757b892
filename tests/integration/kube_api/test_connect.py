"""Finding the API server, and what is made of its answers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from headrace.core.errors import ConfigError
from headrace.service.kube.api import ApiLimits, Call
from headrace.service.kube.connect import Api, open_api
from headrace.service.kube.errors import (
    KubeFailed,
    KubeForbidden,
    KubeNotFound,
    KubeRefused,
    KubeThrottled,
    KubeUnreachable,
)
from headrace.service.kube.resource import CONFIG_MAPS
from tests.integration.kube_api.conftest import config_map
from tests.support.fake_kube import FakeKube

LIST = Call("list", CONFIG_MAPS)


def written(path: Path, server: str, user: dict[str, Any]) -> Path:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "one",
        "clusters": [{"name": "one", "cluster": {"server": server}}],
        "users": [{"name": "one", "user": user}],
        "contexts": [{"name": "one", "context": {"cluster": "one", "user": "one"}}],
    }
    path.write_text(yaml.safe_dump(config))
    return path


async def test_a_kubeconfig_says_where_and_who(kube: FakeKube, tmp_path: Path) -> None:
    kube.token = "secret"
    path = written(tmp_path / "config", kube.url, {"token": "secret"})
    async with await open_api(path) as api:
        assert api.server == kube.url
        assert (await api.send(LIST))["items"] == []
        assert api.calls == {("list", "configmaps"): 1}
        assert api.writes == 0


async def test_the_environment_names_a_kubeconfig(
    kube: FakeKube, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "config", kube.url, {})
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path / 'absent'}:{path}")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    async with await open_api(context="one") as api:
        assert api.server == kube.url


async def test_a_token_that_was_exchanged_is_read_again(kube: FakeKube, tmp_path: Path) -> None:
    kube.token = "first"
    path = written(tmp_path / "config", kube.url, {"token": "first"})
    async with await open_api(path) as api:
        await api.send(LIST)
        kube.token = "second"
        with pytest.raises(KubeForbidden):
            await api.send(LIST)
        written(path, kube.url, {"token": "second"})
        await api.send(LIST)
        requests = kube.requests["GET", "configmaps"]
        await api.send(LIST)
        assert kube.requests["GET", "configmaps"] == requests + 1  # it is kept
        path.unlink()
        kube.token = "third"
        with pytest.raises(KubeForbidden, match="cannot be read"):
            await api.send(LIST)


async def test_without_a_cluster_it_says_where_it_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=r"no Kubernetes: .*\.kube/config"):
        await open_api()
    with pytest.raises(ConfigError, match="no file"):
        await open_api(tmp_path / "absent")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    with pytest.raises(ConfigError, match="the account of this pod"):
        await open_api()


@pytest.mark.parametrize(
    "text", ["", "{}", "[1, 2]", ": :", "contexts: 3", "current-context: absent\ncontexts: []"]
)
async def test_a_malformed_kubeconfig_is_a_wrong_setting(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(ConfigError, match="config"):
        await open_api(path)


async def test_certificates_that_are_none_are_a_wrong_setting(tmp_path: Path) -> None:
    path = written(tmp_path / "config", "https://127.0.0.1:1", {})
    config = yaml.safe_load(path.read_text())
    config["clusters"][0]["cluster"]["certificate-authority-data"] = "bm9uZQ=="
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(ConfigError, match="certificates"):
        await open_api(path)


async def test_nobody_there_is_unreachable_and_may_be_tried_again(kube: FakeKube, api: Api) -> None:
    await kube.stop()
    with pytest.raises(KubeUnreachable, match=kube.url) as caught:
        await api.send(LIST)
    assert caught.value.retry_safe


@pytest.mark.parametrize(
    ("status", "reason", "kind", "retry_safe"),
    [
        (403, "Forbidden", KubeForbidden, False),
        (404, "NotFound", KubeNotFound, False),
        (422, "Invalid", KubeRefused, False),
        (429, "TooManyRequests", KubeThrottled, True),
        (500, "InternalError", KubeFailed, True),
        (503, "ServiceUnavailable", KubeFailed, True),
    ],
)
async def test_an_error_has_its_kind_and_the_servers_words(
    kube: FakeKube, api: Api, status: int, reason: str, kind: type[Exception], retry_safe: bool
) -> None:
    kube.fail(1, status, reason)
    with pytest.raises(kind, match=f"made to fail: {reason}") as caught:
        await api.send(LIST)
    assert caught.value.retry_safe is retry_safe  # type: ignore[attr-defined]
    if isinstance(caught.value, KubeThrottled):
        assert caught.value.retry_after_s == 1.0


async def test_an_answer_has_a_longest_length(kube: FakeKube) -> None:
    kube.put(CONFIG_MAPS, config_map("a", text="x" * 10_000))
    async with kube.client(ApiLimits(answer_bytes=5_000)) as api:
        with pytest.raises(KubeRefused, match="longer than 5000 bytes"):
            await api.send(LIST)


async def test_what_is_no_api_server_is_unreachable() -> None:
    async def page(_: web.Request) -> web.Response:
        return web.Response(text="<html>welcome</html>")

    async def slow(_: web.Request) -> web.Response:
        await asyncio.sleep(30)
        return web.Response()

    app = web.Application()
    app.router.add_get("/api/v1/configmaps", page)
    app.router.add_get("/api/v1/pods", slow)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        from headrace.service.kube.api import Server
        from headrace.service.kube.resource import PODS

        async def nobody(_: bool) -> None:
            return None

        port = runner.addresses[0][1]
        limits = ApiLimits(answer_s=0.2)
        async with Api(Server(f"http://127.0.0.1:{port}"), nobody, limits) as api:
            with pytest.raises(KubeUnreachable, match="not as an API server"):
                await api.send(LIST)
            with pytest.raises(KubeUnreachable, match="Timeout"):
                await api.send(Call("list", PODS))
    finally:
        await runner.cleanup()
