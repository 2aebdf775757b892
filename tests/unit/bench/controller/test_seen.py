"""When a service is complete, and what counts as the first thing done about it."""

from __future__ import annotations

from typing import Any

from bench.controller.seen import is_complete

STATUS = {"observedGeneration": 2, "replicas": 3, "readyReplicas": 3, "updatedReplicas": 3}


def _service(reason: str = "Complete", **changed: Any) -> dict[str, Any]:
    conditions = [{"type": "Progressing", "reason": reason}]
    return {
        "generation": 2,
        "replicas": 3,
        "status": {**STATUS, "conditions": conditions},
        **changed,
    }


def test_a_service_is_complete_once_its_status_says_so_of_its_newest_spec() -> None:
    assert is_complete(_service())
    assert not is_complete(_service(generation=3))
    assert not is_complete(_service(replicas=4))
    assert not is_complete(_service("Rolling"))
    assert not is_complete(_service(status={}))
