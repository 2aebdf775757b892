"""What is said of a LoraAdapter."""

from __future__ import annotations

from typing import Any

import pytest

from controller.adapters.status import Answer, Failure, status
from headrace.core.adapter import AdapterSpec
from headrace.core.ids import ModelName
from headrace.runtime.adapter_objects import Claim

POET = ModelName("poet")
OLD, NEW = "sha256:" + "a" * 64, "sha256:" + "b" * 64
EMPTY = Answer()
HAS = Answer({POET: OLD})
FAILED = Answer(failures={POET: Failure("s3://b/poet", None, "not allowed")})


def claim(replicas: int | None = None, digest: str | None = None) -> Claim:
    return Claim(
        AdapterSpec(POET, ModelName("chat"), "s3://b/poet", digest=digest, replicas=replicas)
    )


def said(
    claimed: Claim, *answers: Answer | None, before: dict[str, Any] | None = None, at: str = "now"
) -> dict[str, Any]:
    adapter = {"metadata": {"name": "poet", "generation": 4}, "spec": {}}
    return status(adapter | ({"status": before} if before else {}), claimed, answers, at)


@pytest.mark.parametrize(
    ("claimed", "answers", "expected"),
    [
        (claim(), (), ("False", "NoReplica", 0)),
        (claim(), (None, None), ("True", "OnDemand", 0)),
        (claim(), (EMPTY, HAS), ("True", "Loaded", 1)),
        (claim(replicas=0), (EMPTY,), ("True", "OnDemand", 0)),
        (claim(replicas=2), (EMPTY, HAS), ("False", "Loading", 1)),
        (claim(replicas=2), (HAS, HAS), ("True", "Loaded", 2)),
        (claim(replicas=5), (HAS, HAS), ("True", "Loaded", 2)),  # all there are
        (claim(digest=OLD), (HAS,), ("True", "Loaded", 1)),
        (claim(digest=NEW), (HAS,), ("True", "OnDemand", 0)),  # what it has is another version
        (claim(), (EMPTY, FAILED), ("False", "LoadFailed", 0)),
        (claim(), (HAS, FAILED), ("True", "Loaded", 1)),
        (claim(replicas=2), (HAS, FAILED), ("False", "LoadFailed", 1)),
        (claim(digest=NEW), (FAILED,), ("True", "OnDemand", 0)),  # another version failed
        (Claim(None, "NoLora", "why"), (HAS,), ("False", "NoLora", 0)),
    ],
)
def test_the_condition_says_whether_and_why(
    claimed: Claim, answers: tuple[Answer | None, ...], expected: tuple[str, str, int]
) -> None:
    made = said(claimed, *answers)
    [condition] = made["conditions"]
    assert (condition["status"], condition["reason"], made["loadedReplicas"]) == expected
    assert made["observedGeneration"] == condition["observedGeneration"] == 4


def test_a_failure_is_told_in_the_words_of_the_sidecar() -> None:
    [condition] = said(claim(), FAILED)["conditions"]
    assert condition["message"] == "0 of 1 ready replicas have it: not allowed"


def test_what_does_not_change_is_said_alike() -> None:
    first = said(claim(), HAS, at="one")
    assert said(claim(), HAS, before=first, at="two") == first
    second = said(claim(), HAS, HAS, before=first, at="two")
    assert second["conditions"][0]["lastTransitionTime"] == "one"
    third = said(claim(), before=first, at="two")
    assert third["conditions"][0]["lastTransitionTime"] == "two"
