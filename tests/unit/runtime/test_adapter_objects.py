"""LoraAdapter objects as adapters."""

from __future__ import annotations

from typing import Any

from headrace.core.adapter import AdapterSpec
from headrace.core.ids import ModelName
from headrace.runtime.adapter_objects import claims, slim
from headrace.service.kube.resource import Key, Object, key_of

DIGEST = "sha256:" + "a" * 64


def adapter(label: str, /, base: str = "chat", at: str = "2026-01-01", **spec: Any) -> Object:
    return {
        "metadata": {"namespace": "ns", "name": label, "creationTimestamp": f"{at}T00:00:00Z"},
        "spec": {"base": base, "source": f"s3://b/{label}", **spec},
    }


def service(name: str = "chat", model: str | None = None, lora: bool = True) -> Object:
    spec: dict[str, Any] = {"lora": {"maxLoras": 8}} if lora else {}
    if model is not None:
        spec["model"] = {"name": model, "source": "org/x"}
    return {"metadata": {"namespace": "ns", "name": name}, "spec": spec}


def by_key(*services: Object) -> dict[Key, Object]:
    return {key_of(one): one for one in services}


def test_an_adapter_changes_what_clients_call_the_model_of_its_service() -> None:
    said = adapter("poet", name="poet:v2", digest=DIGEST, rank=16, replicas=3)
    found = claims([said, adapter("plain")], by_key(service(model="llama")))
    assert found["ns", "poet"].spec == AdapterSpec(
        ModelName("poet:v2"), ModelName("llama"), "s3://b/poet", 16, DIGEST, 3
    )
    assert found["ns", "plain"].spec == AdapterSpec(
        ModelName("plain"), ModelName("llama"), "s3://b/plain"
    )


def test_a_model_without_a_name_of_its_own_is_called_as_its_service() -> None:
    spec = claims([adapter("poet")], by_key(service()))["ns", "poet"].spec
    assert spec is not None
    assert spec.base == "chat"


def test_what_is_not_served_is_told_of() -> None:
    broken = {**adapter("broken"), "spec": {"base": "chat", "rank": "many"}}
    elsewhere = {"metadata": {"namespace": "other", "name": "far"}, "spec": adapter("far")["spec"]}
    given = [adapter("lost", base="nobody"), adapter("flat", base="plain"), broken, elsewhere]
    found = claims(given, by_key(service(), service("plain", lora=False)))
    assert {key: (claim.spec, claim.reason) for key, claim in found.items()} == {
        ("ns", "lost"): (None, "NoSuchModel"),
        ("ns", "flat"): (None, "NoLora"),
        ("ns", "broken"): (None, "BadSpec"),
        ("other", "far"): (None, "NoSuchModel"),
    }


def test_of_two_that_claim_a_name_the_older_has_it() -> None:
    young = adapter("a", at="2026-02-02", name="poet")
    old = adapter("b", at="2026-02-01", name="poet")
    found = claims([young, old], by_key(service()))
    assert found["ns", "b"].spec is not None
    assert found["ns", "a"].reason == "NameTaken"
    assert "ns/b" in found["ns", "a"].message
    going = {**old, "metadata": {**old["metadata"], "deletionTimestamp": "2026-02-03T00:00:00Z"}}
    assert list(claims([young, going], by_key(service()))) == [("ns", "a")]
    unserved = {**old, "spec": {**old["spec"], "base": "nobody"}}
    assert claims([young, unserved], by_key(service()))["ns", "a"].spec is not None


def test_no_adapter_takes_the_name_of_a_model() -> None:
    found = claims([adapter("llama")], by_key(service(), service("other", model="llama")))
    assert found["ns", "llama"].reason == "NameTaken"


def test_what_is_kept_of_objects_is_enough() -> None:
    full = {**dict(service(model="llama")), "status": {"replicas": 1}}
    full["spec"] = {**full["spec"], "engine": {"kind": "vllm"}, "variants": [{"name": "m"}]}
    kept = slim(full)
    assert "status" not in kept
    assert set(kept["spec"]) == {"model", "lora"}
    one = adapter("poet", digest=DIGEST)
    assert claims([slim(dict(one))], by_key(kept)) == claims([one], by_key(full))
