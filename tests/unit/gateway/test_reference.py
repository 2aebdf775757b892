from prometheus_client import CollectorRegistry

from gateway.app import cold_app
from gateway.dispatch import PATHS
from gateway.keys import Keys
from router.router import Router


def test_relayed_routes_are_described_beside_fastapis_own() -> None:
    paths = cold_app(Router(), Keys(None), CollectorRegistry()).openapi()["paths"]
    assert set(PATHS.values()) <= set(paths)
    assert {"/v1/models", "/health", "/ready", "/metrics"} <= set(paths)
    body = paths["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]
    assert body["schema"]["required"] == ["model", "messages"]
    assert "temperature" in body["schema"]["properties"]
