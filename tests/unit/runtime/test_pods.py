from __future__ import annotations

import json
from typing import Any

import pytest

from controller.models import words
from headrace.core.endpoint import Health, KvEventSource, Role, Speed
from headrace.runtime import pods
from headrace.runtime.pods import NOTHING, sighting, slim


def pod(said: object = None, address: str = "10.1.2.3", **labels: str) -> dict[str, Any]:
    text = said if isinstance(said, str) else json.dumps(said or {"port": 8000})
    return {
        "metadata": {
            "name": "p",
            "namespace": "ns",
            "labels": {pods.SERVICE_LABEL: "chat", **labels},
            "annotations": {pods.ENDPOINT_ANNOTATION: text},
        },
        "status": {
            "phase": "Running",
            "podIP": address,
            "conditions": [{"type": "ContainersReady", "status": "True"}],
        },
    }


def test_controller_and_gateway_mean_the_same_words() -> None:
    assert pods.SERVICE_LABEL == words.SERVICE_LABEL
    assert pods.ROLE_LABEL == words.ROLE_LABEL
    assert pods.ENDPOINT_ANNOTATION == words.ENDPOINT_ANNOTATION


def test_an_endpoint_needs_no_more_than_a_port() -> None:
    view = sighting(pod({"port": 9000})).view
    assert view is not None
    assert (view.endpoint_id, view.url) == ("ns/p", "http://10.1.2.3:9000")
    assert (view.runtime_url, view.kv_events, view.models) == (None, None, ())
    assert (view.role, view.health, view.speed, view.simulated) == (
        *(Role.BOTH, Health.READY, Speed(), False),
    )


def test_all_that_a_pod_says_reaches_the_router() -> None:
    said = {
        "port": 8000,
        "runtime_port": 8081,
        "kv_events_port": 5557,
        "models": ["llama", "llama-it"],
        "simulated": True,
        "adapter_room": 12,
        "speed": {"prefill_tokens_per_s": 100.5, "kv_tokens": 7},
        "of_a_later_version": {"x": 1},
    }
    view = sighting(pod(said, **{pods.ROLE_LABEL: "decode", "zone": "b", "empty": ""})).view
    assert view is not None
    assert view.kv_events == KvEventSource("tcp://10.1.2.3:5557")
    assert view.runtime_url == "http://10.1.2.3:8081"
    assert view.adapter_room == 12
    assert view.models == ("llama", "llama-it")
    assert view.role is Role.DECODE
    assert view.simulated
    assert view.speed == Speed(prefill_tokens_per_s=100.5, kv_tokens=7)
    assert view.labels == ((pods.SERVICE_LABEL, "chat"), (pods.ROLE_LABEL, "decode"), ("zone", "b"))


def test_an_address_of_version_6_is_put_in_brackets() -> None:
    view = sighting(pod({"port": 8000, "kv_events_port": 5557}, address="fd00::7")).view
    assert view is not None
    assert view.url == "http://[fd00::7]:8000"
    assert view.kv_events == KvEventSource("tcp://[fd00::7]:5557")


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("port: 8000", "malformed"),
        ("[]", "Expected `object`"),
        ("{}", "missing required field `port`"),
        ('{"port": 0}', r"\$.port"),
        ('{"port": "8000"}', r"\$.port"),
        ('{"port": 1, "runtime_port": 65536}', r"\$.runtime_port"),
        ('{"port": 1, "speed": {"prefill_tokens_per_s": 0}}', r"\$.speed.prefill_tokens_per_s"),
        ('{"port": 1, "models": "m"}', r"\$.models"),
    ],
)
def test_a_bad_annotation_is_a_problem_that_says_where(said: str, why: str) -> None:
    import re

    seen = sighting(pod(said))
    assert seen.view is None
    assert seen.problem.startswith("annotation headrace.dev/endpoint: ")
    assert re.search(why, seen.problem)


def test_a_role_that_is_none_is_a_problem() -> None:
    seen = sighting(pod(None, **{pods.ROLE_LABEL: "encode"}))
    assert seen.view is None
    assert seen.problem == "label headrace.dev/role: 'encode' is no role"


def test_a_pod_without_the_annotation_is_no_endpoint_and_no_problem() -> None:
    worker = pod()
    del worker["metadata"]["annotations"]
    assert sighting(worker) == NOTHING
    assert sighting(slim(worker)) == NOTHING


def test_a_pod_is_drained_from_when_it_is_deleted_though_it_is_still_ready() -> None:
    leaving = pod()
    leaving["metadata"]["deletionTimestamp"] = "2026-11-24T15:00:00Z"
    view = sighting(leaving).view
    assert view is not None
    assert view.health is Health.DRAINING


@pytest.mark.parametrize(
    "conditions", [[], None, [{"type": "ContainersReady", "status": "Unknown"}]]
)
def test_a_pod_that_is_not_known_to_be_ready_is_down(conditions: object) -> None:
    young = pod()
    young["status"]["conditions"] = conditions
    view = sighting(young).view
    assert view is not None
    assert view.health is Health.DOWN


@pytest.mark.parametrize("status", [None, {}, {"phase": "Running"}, {"podIP": "10.0.0.1"}])
def test_a_pod_without_an_address_or_that_does_not_run_is_no_endpoint(status: object) -> None:
    early = pod()
    early["status"] = status
    assert sighting(early) == NOTHING
    assert sighting(slim(early)) == NOTHING
