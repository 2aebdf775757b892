"""Headrace as its chart installs it on a cluster, and what tests ask of it."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.kube import images
from tests.kube.cluster import Cluster
from tests.kube.given import AnyCluster
from tests.kube.processes import run, wait_until
from tests.kube.programs import tools_dir

ROOT = Path(__file__).parents[3]
CHART = ROOT / "helm/headrace"
IMAGE = "localhost/headrace:e2e"
IMAGE_INPUTS = [
    ROOT / path
    for path in (
        *("autoscaler", "controller", "gateway", "headrace", "kvcache", "router"),
        *("pyproject.toml", "requirements", ".dockerignore"),
    )
]
"""What the image is made of: other changes of the checkout need no new one."""

NAMESPACE = "headrace"
MODELS = "models"
RELEASE = "headrace"

VALUES: Mapping[str, Any] = {
    "image": {"repository": "localhost/headrace", "tag": "e2e", "pullPolicy": "Never"},
    "crds": {"keep": False},
    "gateway": {"resources": {"requests": {"cpu": "50m", "memory": "128Mi"}}},
    "controller": {
        "config": {"lease": {"duration_s": 5, "renew_s": 1.5}},
        "resources": {"requests": {"cpu": "50m", "memory": "96Mi"}},
    },
}


class Stack:
    """One installation. ``close`` ends what it started beside it."""

    def __init__(self, cluster: AnyCluster) -> None:
        self.cluster = cluster
        self._open = ExitStack()
        self._url = ""

    def close(self) -> None:
        """End the port-forward, if there is one."""
        self._open.close()

    def kubectl(self, *argv: str, stdin: str | None = None, limit_s: float = 60.0) -> str:
        """Run kubectl in the namespace of the models."""
        return self.cluster.kubectl("-n", MODELS, *argv, stdin=stdin, limit_s=limit_s)

    def get(self, *argv: str) -> dict[str, Any]:
        """Return what kubectl gets, as a value."""
        value: dict[str, Any] = json.loads(self.kubectl("get", *argv, "-o", "json"))
        return value

    def helm(self, *argv: str, stdin: str | None = None) -> str:
        """Run helm."""
        program = tools_dir() / "helm"
        config = f"--kubeconfig={self.cluster.kubeconfig}"
        return run([program, config, "-n", NAMESPACE, *argv], stdin, 300)

    def install(self, **values: Any) -> None:
        """Install the chart with the image of this checkout, and wait until it runs."""
        self.cluster.load_image(
            images.build_image(ROOT / "deploy/Dockerfile", IMAGE, inputs=IMAGE_INPUTS)
        )
        self.cluster.kubectl("create", "namespace", MODELS)
        said = json.dumps({**VALUES, **values})
        self.helm(
            *("install", RELEASE, str(CHART), "--create-namespace", "--wait"),
            *("--timeout", "180s", "-f", "-"),
            stdin=said,
        )

    @property
    def url(self) -> str:
        """Where the deployed gateway is reached from here."""
        if not self._url:
            self._url = self._reach()
        return self._url

    def _reach(self) -> str:
        name = f"{RELEASE}-gateway"
        if isinstance(self.cluster, Cluster):
            at = ("-o", "jsonpath={.spec.clusterIP}")
            return "http://" + self.cluster.kubectl("-n", NAMESPACE, "get", "service", name, *at)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        argv = ["kubectl", f"--kubeconfig={self.cluster.kubeconfig}", "-n", NAMESPACE]
        argv += ["port-forward", f"service/{name}", f"{port}:80"]
        process = self._open.enter_context(subprocess.Popen(argv, stdout=subprocess.DEVNULL))
        self._open.callback(process.terminate)
        return f"http://127.0.0.1:{port}"

    def apply(self, name: str, **spec: Any) -> None:
        """Apply a ModelService."""
        document = {
            "apiVersion": "headrace.dev/v1alpha1",
            "kind": "ModelService",
            "metadata": {"name": name},
            "spec": spec,
        }
        self.kubectl("apply", "-f", "-", stdin=json.dumps(document))

    def status(self, name: str) -> dict[str, Any]:
        """Return the status of a ModelService."""
        found: dict[str, Any] = self.get("modelservice", name).get("status", {})
        return found

    def condition(self, name: str, kind: str) -> tuple[str, str]:
        """Return a condition's status and reason."""
        for condition in self.status(name).get("conditions", ()):
            if condition["type"] == kind:
                return condition["status"], condition["reason"]
        return "", ""

    def pods(self, name: str) -> list[dict[str, Any]]:
        """Return the pods of a ModelService, those that are ending too."""
        listed = self.get("pods", "-l", f"headrace.dev/model-service={name}")["items"]
        return sorted(listed, key=lambda pod: pod["metadata"]["name"])

    def alive(self, name: str) -> list[dict[str, Any]]:
        """Return its pods that have not been told to go."""
        return [pod for pod in self.pods(name) if "deletionTimestamp" not in pod["metadata"]]

    def settled(self, name: str, replicas: int) -> bool:
        """Whether a service has just so many pods, all ready and of the newest revision."""
        status = self.status(name)
        counts = ("replicas", "readyReplicas", "updatedReplicas")
        return (
            all(status.get(count, 0) == replicas for count in counts)
            and len(self.pods(name)) == replicas
            and self.condition(name, "Progressing")[1] in ("Complete", "ScaledToZero")
        )

    def until(self, what: str, check: Callable[[], bool], limit_s: float = 120.0) -> float:
        """Wait until something holds; return the seconds it took."""
        started_s = time.monotonic()
        wait_until(what, check, limit_s)
        return time.monotonic() - started_s

    def first_token_s(self, model: str, limit_s: float) -> float:
        """Ask for a stream until one is served; return the seconds until its first byte."""
        started_s = time.monotonic()
        body = {"model": model, "stream": True, "max_tokens": 4}
        body["messages"] = [{"role": "user", "content": "Hello"}]

        def streams() -> bool:
            request = urllib.request.Request(
                f"{self.url}/v1/chat/completions",
                json.dumps(body).encode(),
                {"content-type": "application/json"},
            )
            try:
                with urllib.request.urlopen(request, timeout=10) as reply:
                    return bool(reply.readline().startswith(b"data: {"))
            except OSError:
                return False

        wait_until(f"{model} streams", streams, limit_s)
        return time.monotonic() - started_s
