from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from headrace.core.endpoint import EndpointView, Health, KvEventSource
from headrace.runtime.pods import NOTHING, sighting, slim

FOLDER = Path(__file__).parent


def pod(name: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return read


def view(name: str) -> EndpointView:
    seen = sighting(pod(name))
    assert seen.view is not None
    return seen.view


def test_a_ready_pod_is_an_endpoint_with_all_that_it_says_of_itself() -> None:
    ready = view("ready")
    address = pod("ready")["status"]["podIP"]
    assert ready.endpoint_id == "default/chat-cpu-1"
    assert ready.url == f"http://{address}:8000"
    assert ready.runtime_url == f"http://{address}:8081"
    assert ready.kv_events == KvEventSource(f"tcp://{address}:5557", f"tcp://{address}:5558")
    assert ready.simulated
    assert ("headrace.dev/variant", "cpu") in ready.labels


@pytest.mark.parametrize(
    ("name", "health"),
    [
        ("starting", Health.DOWN),
        ("ready", Health.READY),
        ("unreachable", Health.READY),
        ("draining", Health.DRAINING),
    ],
)
def test_a_pod_is_down_then_ready_then_draining(name: str, health: Health) -> None:
    assert view(name).health is health


def test_a_pod_whose_node_is_silent_has_lost_ready_and_is_left_to_our_own_looks() -> None:
    conditions = {c["type"]: c["status"] for c in pod("unreachable")["status"]["conditions"]}
    assert (conditions["Ready"], conditions["ContainersReady"]) == ("False", "True")


@pytest.mark.parametrize("name", ["pending", "ended"])
def test_a_pod_that_does_not_run_is_no_endpoint_and_nothing_is_wrong_with_it(name: str) -> None:
    assert sighting(pod(name)) == NOTHING


@pytest.mark.parametrize("name", ["pending", "starting", "ready", "draining", "ended"])
def test_the_part_of_a_pod_that_is_kept_says_the_same_as_the_whole(name: str) -> None:
    whole = pod(name)
    kept = slim(pod(name))
    assert sighting(kept) == sighting(whole)
    for field in ("name", "namespace", "uid", "resourceVersion"):
        assert kept["metadata"][field] == whole["metadata"][field]
    assert len(json.dumps(kept)) < len(json.dumps(whole)) / 8
