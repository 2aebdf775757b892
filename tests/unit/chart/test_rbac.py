"""Who may do what: exactly this, in exactly the namespaces that are served."""

from __future__ import annotations

from typing import Final

import pytest

from tests.support.chart import NAMESPACE, Object, of_kind, one, rendered, settings_file

READ: Final = frozenset({"get", "list", "watch"})
MAKE: Final = READ | {"create", "delete"}
APPLY: Final = READ | {"create", "patch"}

ALLOWED: Final[dict[str, dict[str, frozenset[str]]]] = {
    "gateway": {
        "/pods": READ,
        "headrace.dev/loraadapters": READ,
        "headrace.dev/modelservices": READ,
    },
    "controller": {
        "headrace.dev/modelservices": READ | {"patch"},
        "headrace.dev/loraadapters": READ | {"patch"},
        "headrace.dev/modelservices/status": frozenset({"patch"}),
        "headrace.dev/loraadapters/status": frozenset({"patch"}),
        "headrace.dev/modelservices/finalizers": frozenset({"update"}),
        "headrace.dev/loraadapters/finalizers": frozenset({"update"}),
        "/pods": MAKE,
        "ray.io/rayclusters": MAKE,
        "apps/controllerrevisions": MAKE,
        "policy/poddisruptionbudgets": APPLY,
        "inference.networking.k8s.io/inferencepools": APPLY,
        "events.k8s.io/events": frozenset({"create", "patch"}),
    },
}


def granted(role: Object) -> dict[str, frozenset[str]]:
    """Return the verbs of a role by group and resource."""
    verbs: dict[str, frozenset[str]] = {}
    for rule in role["rules"]:
        assert rule.keys() == {"apiGroups", "resources", "verbs"}
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                assert f"{group}/{resource}" not in verbs
                verbs[f"{group}/{resource}"] = frozenset(rule["verbs"])
    return verbs


@pytest.mark.parametrize("component", ALLOWED)
def test_a_process_may_do_what_it_does_everywhere(component: str) -> None:
    made = rendered({})
    role = one(made, "ClusterRole", f"{NAMESPACE}-headrace-{component}")
    assert granted(role) == ALLOWED[component]
    assert not [
        r for r in of_kind(made, "Role") if r["metadata"]["name"] == f"headrace-{component}"
    ]


@pytest.mark.parametrize("component", ALLOWED)
def test_with_one_namespace_it_may_do_so_only_there(component: str) -> None:
    made = rendered({"watchNamespace": "models", "rbac": {"aggregate": False}})
    role = one(made, "Role", f"headrace-{component}")
    assert granted(role) == ALLOWED[component]
    assert role["metadata"]["namespace"] == "models"
    binding = one(made, "RoleBinding", f"headrace-{component}")
    assert binding["metadata"]["namespace"] == "models"
    assert binding["subjects"][0]["namespace"] == NAMESPACE
    assert not of_kind(made, "ClusterRole", "ClusterRoleBinding")


def test_a_leader_is_elected_where_the_release_is_and_by_its_own_lease() -> None:
    for release in ("headrace", "headrace-two"):
        made = rendered({"watchNamespace": "models"}, release)
        role = one(made, "Role", f"{release}-leader-election")
        assert role["metadata"]["namespace"] == NAMESPACE
        lease = settings_file(made, "controller", release)["lease"]["name"]
        kind = {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"]}
        assert role["rules"] == [{**kind, "resourceNames": [lease], "verbs": ["get", "update"]}]
        assert one(made, "Lease", lease)["metadata"]["namespace"] == NAMESPACE


def test_nothing_is_granted_by_wildcard_and_no_secret_to_anyone() -> None:
    for role in of_kind(rendered({}), "Role", "ClusterRole"):
        for rule in role["rules"]:
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            assert "secrets" not in rule["resources"]
            assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"])


def test_people_who_may_edit_a_namespace_may_edit_its_models() -> None:
    made = rendered({})
    labels = "rbac.authorization.k8s.io/aggregate-to-"
    view = one(made, "ClusterRole", f"{NAMESPACE}-headrace-view")
    edit = one(made, "ClusterRole", f"{NAMESPACE}-headrace-edit")
    assert view["metadata"]["labels"][f"{labels}view"] == "true"
    assert {f"{labels}edit", f"{labels}admin"} <= edit["metadata"]["labels"].keys()
    assert granted(view)["headrace.dev/modelservices"] == READ
    assert "headrace.dev/modelservices/status" not in granted(edit)
    assert not of_kind(rendered({"rbac": {"create": False}}), "Role", "ClusterRole", "RoleBinding")
