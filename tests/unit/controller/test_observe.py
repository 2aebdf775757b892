"""What is read from a pod, and from a cluster by its head."""

from __future__ import annotations

from typing import Any

import pytest

from controller.models.observe import cluster_as_replica, pod_as_replica, seconds

SERVES_AT = "2026-01-01T00:05:00Z"


def pod(ready: str) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "p",
            "uid": "u",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"headrace.dev/variant": "main", "headrace.dev/revision": "r"},
        },
        "status": {
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": SERVES_AT}]
        },
    }


def test_a_pod_that_is_ready_says_since_when() -> None:
    seen = pod_as_replica(pod("True"))
    assert seen.ready
    assert seen.ready_since_s - seen.created_s == pytest.approx(300)


def test_the_time_at_which_a_pod_ceased_to_be_ready_is_no_progress() -> None:
    seen = pod_as_replica(pod("False"))
    assert not seen.ready
    assert seen.ready_since_s == 0


def test_a_ray_cluster_serves_since_its_head_does() -> None:
    cluster = {"metadata": {"name": "c", "uid": "u"}}
    assert cluster_as_replica(cluster, pod("True")).ready_since_s == seconds(SERVES_AT)
    assert cluster_as_replica(cluster, None).ready_since_s == 0
