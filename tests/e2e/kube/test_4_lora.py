"""LoraAdapter objects: what clients see of them, where they are loaded, and what is said of it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any

import pytest

from headrace.runtime.artifacts.digest import FileDigest, folder_digest
from tests.e2e.kube.stack import IMAGE, MODELS, Stack

pytestmark = pytest.mark.kube

BASE = "based"
FILES = "adapter-files"
PORT = 8_000
WANTED_S = 60.0


def _version(weights: str) -> dict[str, str]:
    """Return the files of one version of an adapter."""
    files = {"adapter_config.json": json.dumps({"r": 8}), "adapter_model.safetensors": weights}
    sums = [f"{sha256(text.encode()).hexdigest()}  {name}\n" for name, text in files.items()]
    return {**files, "SHA256SUMS": "".join(sums)}


FOLDERS: Mapping[str, Mapping[str, str]] = {
    "poet/1": _version("rhymes"),
    "poet/2": _version("better rhymes"),
    "critic/1": _version("blame"),
}


def _digest(folder: str) -> str:
    return folder_digest(
        FileDigest(name, len(text.encode()), sha256(text.encode()).hexdigest())
        for name, text in FOLDERS[folder].items()
        if name != "SHA256SUMS"
    )


@pytest.fixture(scope="module")
def origin(stack: Stack) -> Iterator[str]:
    """URL of a web server that has every folder."""
    items = [(folder, name) for folder, files in FOLDERS.items() for name in files]
    keys = {item: f"file-{number}" for number, item in enumerate(items)}
    texts = {key: FOLDERS[folder][name] for (folder, name), key in keys.items()}
    places = [{"key": key, "path": "/".join(item)} for item, key in keys.items()]
    server = {
        "name": "web",
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "command": ["python", "-m", "http.server", str(PORT), "--directory", "/files"],
        "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
        "volumeMounts": [{"name": "files", "mountPath": "/files"}],
    }
    volume = {"name": "files", "configMap": {"name": FILES, "items": places}}
    spec = {"containers": [server], "volumes": [volume], "terminationGracePeriodSeconds": 1}
    for kind, body in (("ConfigMap", {"data": texts}), ("Pod", {"spec": spec})):
        _apply(stack, {"apiVersion": "v1", "kind": kind, "metadata": {"name": FILES}, **body})
    try:
        stack.kubectl("wait", "pod", FILES, "--for=condition=Ready", "--timeout=60s", limit_s=70)
        yield f"http://{stack.get('pod', FILES)['status']['podIP']}:{PORT}/"
    finally:
        stack.kubectl("delete", f"pod/{FILES}", f"configmap/{FILES}", "--ignore-not-found")


@pytest.fixture(scope="module")
def base(stack: Stack, origin: str) -> Iterator[str]:
    """A model that takes adapters from there; what clients call it."""
    model = "llama"
    stack.apply(BASE, replicas=2, model={"name": model}, lora={"sources": [origin]})
    try:
        stack.until("it serves", lambda: stack.settled(BASE, 2))
        stack.first_token_s(model, WANTED_S)
        yield model
    finally:
        stack.kubectl("delete", "loraadapters", "--all")
        stack.kubectl("delete", "modelservice", BASE)
        stack.until("its pods are gone", lambda: not stack.pods(BASE))


def _apply(stack: Stack, document: Mapping[str, Any]) -> None:
    stack.kubectl("apply", "-f", "-", stdin=json.dumps(document))


def _adapter(stack: Stack, label: str, /, **spec: Any) -> None:
    head = {"apiVersion": "headrace.dev/v1alpha1", "kind": "LoraAdapter"}
    _apply(stack, {**head, "metadata": {"name": label}, "spec": {"base": BASE, **spec}})


def _ask(stack: Stack, model: str) -> tuple[int, str]:
    """Return the status and the model that an answer names, or the text of the error."""
    body = {"model": model, "prompt": "Hello", "max_tokens": 4}
    request = urllib.request.Request(
        f"{stack.url}/v1/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, json.load(reply)["model"]
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def _listed(stack: Stack) -> set[str]:
    with urllib.request.urlopen(f"{stack.url}/v1/models", timeout=10) as reply:
        return {model["id"] for model in json.load(reply)["data"]}


def _loaded(stack: Stack, name: str) -> list[str]:
    """Return the digests of an adapter in the replicas that have it, as their sidecars say."""
    at = f"/api/v1/namespaces/{MODELS}/pods/{{}}:8081/proxy/v1/adapters"
    said = [
        json.loads(stack.kubectl("get", "--raw", at.format(pod["metadata"]["name"])))
        for pod in stack.alive(BASE)
    ]
    return [each["digest"] for one in said for each in one["adapters"] if each["name"] == name]


def _said(stack: Stack, name: str) -> tuple[str, str, int]:
    status = stack.get("lora", name).get("status", {})
    [condition] = status.get("conditions") or [{"status": "", "reason": ""}]
    return condition["status"], condition["reason"], status.get("loadedReplicas", -1)


def _until_said(stack: Stack, name: str, expected: tuple[str, str, int]) -> None:
    stack.until(f"{name}: {expected}", lambda: _said(stack, name) == expected, 30)


def test_adapters_are_listed_and_loaded_when_asked_for(
    stack: Stack, base: str, origin: str
) -> None:
    _adapter(stack, "poet", source=f"{origin}poet/1/", digest=_digest("poet/1"), rank=8)
    _adapter(stack, "critic", name="critic:best", source=f"{origin}critic/1/", replicas=2)
    stack.until("both are listed", lambda: {base, "poet", "critic:best"} <= _listed(stack), 30)
    _until_said(stack, "poet", ("True", "OnDemand", 0))
    assert _ask(stack, "poet") == (200, "poet")
    assert _loaded(stack, "poet") == [_digest("poet/1")]
    _until_said(stack, "poet", ("True", "Loaded", 1))
    stack.until("the other is on both", lambda: len(_loaded(stack, "critic:best")) == 2, 30)
    _until_said(stack, "critic", ("True", "Loaded", 2))
    assert _ask(stack, "critic:best") == (200, "critic:best")


def test_kubectl_shows_them(stack: Stack, base: str) -> None:
    head, *rows = [line.split() for line in stack.kubectl("get", "lora").splitlines()]
    assert head == ["NAME", "BASE", "REPLICAS", "LOADED", "READY", "REASON", "AGE"]
    assert [row[:-1] for row in rows] == [
        ["critic", BASE, "2", "2", "True", "Loaded"],
        ["poet", BASE, "1", "True", "Loaded"],
    ]


def test_a_new_digest_is_served_as_a_new_version(stack: Stack, base: str, origin: str) -> None:
    _adapter(stack, "poet", source=f"{origin}poet/2/", digest=_digest("poet/2"), rank=8)

    def newest() -> bool:
        return _ask(stack, "poet") == (200, "poet") and _digest("poet/2") in _loaded(stack, "poet")

    stack.until("the new version is served", newest, 30)
    stack.until("it is told", lambda: _said(stack, "poet")[:2] == ("True", "Loaded"), 30)


def test_what_cannot_be_served_says_why(stack: Stack, base: str, origin: str) -> None:
    _adapter(stack, "lost", base="nobody", source=f"{origin}poet/1/")
    _adapter(stack, "twin", name="poet", source=f"{origin}poet/1/")
    _adapter(stack, "foreign", source="http://elsewhere.example.com/poet/")
    _adapter(stack, "forged", source=f"{origin}poet/1/", digest=_digest("poet/2"))
    _until_said(stack, "lost", ("False", "NoSuchModel", 0))
    _until_said(stack, "twin", ("False", "NameTaken", 0))
    assert "lost" not in _listed(stack)
    stack.until("two are listed", lambda: {"foreign", "forged"} <= _listed(stack), 30)
    for name in ("foreign", "forged"):
        assert _ask(stack, name)[0] in (502, 503)
    for name in ("foreign", "forged"):
        _until_said(stack, name, ("False", "LoadFailed", 0))
    assert _ask(stack, base) == (200, base)
    stack.kubectl("delete", "lora", "lost", "twin", "foreign", "forged")


def test_a_deleted_adapter_is_unloaded_and_unknown(stack: Stack, base: str) -> None:
    stack.kubectl("delete", "lora", "poet", "critic")
    gone = {"poet", "critic:best"}
    stack.until("they are not listed", lambda: not gone & _listed(stack), 30)
    assert base in _listed(stack)
    assert _ask(stack, "poet")[0] == 404
    stack.until(
        "no replica has them",
        lambda: not _loaded(stack, "poet") and not _loaded(stack, "critic:best"),
        30,
    )
