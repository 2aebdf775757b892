"""The chart installs, and a model serves soon after it was applied."""

from __future__ import annotations

import json

import pytest

from tests.e2e.kube.counted import Counted
from tests.e2e.kube.stack import NAMESPACE, RELEASE, ROOT, Stack

pytestmark = pytest.mark.kube


def test_a_request_streams_through_the_deployed_gateway(stack: Stack, counted: Counted) -> None:
    stack.apply("first", replicas=1, rollout={"drainSeconds": 60})
    took_s = stack.first_token_s("first", limit_s=120)
    counted.figures["apply_to_first_token_s"] = round(took_s, 1)
    assert took_s <= 60


def test_kubectl_get_shows_what_operators_ask_first(stack: Stack) -> None:
    stack.until("the status says so", lambda: stack.settled("first", 1))
    header, row = stack.kubectl("get", "ms", "first").splitlines()
    assert header.split() == [
        *("NAME", "READY", "REPLICAS", "WANTED", "UPDATED", "AVAILABLE", "STATUS", "AGE")
    ]
    assert row.split()[:7] == ["first", "1", "1", "1", "1", "True", "Complete"]


def test_a_disruption_budget_counts_the_pods(stack: Stack) -> None:
    """Kubernetes' own controller counts by our scale, once it knows of a kind installed just now."""

    def counts_one() -> bool:
        [budget] = stack.get("poddisruptionbudgets")["items"]
        return bool(budget.get("status", {}).get("expectedPods") == 1)

    stack.until("the budget counts the pod", counts_one)


def test_events_tell_of_the_rollout(stack: Stack) -> None:
    def told() -> bool:
        items = stack.get("events.events.k8s.io")["items"]
        return any(
            event["reason"] == "RolloutComplete" and event["regarding"]["name"] == "first"
            for event in items
        )

    stack.until("an event tells of it", told, 30)


@pytest.mark.parametrize(
    ("account", "verb", "resource", "allowed"),
    [
        ("controller", "create", "pods", True),
        ("controller", "delete", "pods", True),
        ("controller", "patch", "modelservices.headrace.dev/status", True),
        ("controller", "create", "controllerrevisions.apps", True),
        ("controller", "delete", "modelservices.headrace.dev", False),
        ("controller", "get", "secrets", False),
        ("controller", "create", "pods/exec", False),
        ("controller", "get", "nodes", False),
        ("controller", "escalate", "roles.rbac.authorization.k8s.io", False),
        ("gateway", "watch", "pods", True),
        ("gateway", "create", "pods", False),
        ("gateway", "delete", "pods", False),
        ("gateway", "get", "secrets", False),
        ("gateway", "patch", "modelservices.headrace.dev", False),
    ],
)
def test_accounts_may_do_what_they_must_and_nothing_else(
    stack: Stack, account: str, verb: str, resource: str, allowed: bool
) -> None:
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": f"system:serviceaccount:{NAMESPACE}:{RELEASE}-{account}",
            "groups": ["system:serviceaccounts", "system:authenticated"],
            "resourceAttributes": _attributes(verb, resource),
        },
    }
    said = stack.kubectl("create", "-o", "json", "-f", "-", stdin=json.dumps(review))
    assert json.loads(said)["status"]["allowed"] is allowed


def _attributes(verb: str, resource: str) -> dict[str, str]:
    named, _, subresource = resource.partition("/")
    plural, _, group = named.partition(".")
    found = {"namespace": "models", "verb": verb, "resource": plural, "group": group}
    return {**found, "subresource": subresource} if subresource else found


def test_the_plain_manifests_pass_the_api_server(stack: Stack) -> None:
    said = stack.cluster.kubectl(
        "apply", "--dry-run=server", "-f", str(ROOT / "deploy/headrace.yaml")
    )
    assert "deployment.apps/headrace-gateway" in said
