"""The example document, served here as it would be by a cluster."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner

from headrace.cli.app import app
from tests.support.serving_command import start_serving

EXAMPLE = Path(__file__).resolve().parents[3] / "deploy" / "examples" / "model-service.yaml"


def answer(url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as reply:
        loaded: dict[str, Any] = json.load(reply)
    return loaded


def test_a_file_that_checks_is_served_over_http(tmp_path: Path) -> None:
    """With an adapter beside the model, and a field that only a cluster can honour."""
    document = yaml.safe_load(EXAMPLE.read_text())
    document["spec"]["pod"] = {"priorityClassName": "high"}
    folder = tmp_path / "red"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 8}')
    (folder / "adapter_model.safetensors").write_bytes(b"")
    adapter = {
        "apiVersion": document["apiVersion"],
        "kind": "LoraAdapter",
        "metadata": {"name": "red"},
        "spec": {"base": "llama", "source": folder.as_uri(), "rank": 8},
    }
    file = tmp_path / "models.yaml"
    file.write_text(yaml.safe_dump_all([document, adapter]))
    checked = CliRunner().invoke(app, ["config", "check", str(file)])
    assert checked.exit_code == 0, checked.output
    settings = tmp_path / "up.yaml"
    settings.write_text(
        f"gateway: {{adapters: {{artifacts: {{cache_dir: {tmp_path / 'cache'}}}}}}}\n"
    )
    log = tmp_path / "up.log"
    up = start_serving(
        *("up", "-f", str(file), "--config", str(settings), "--port", "0"),
        log=log,
        until="2 of 2 endpoints are ready",
    )
    try:
        models = {each["id"] for each in answer(f"{up.url}/v1/models")["data"]}
        assert models == {"llama-3.1-8b", "red"}
        for model in ("llama-3.1-8b", "red"):
            said = answer(
                f"{up.url}/v1/completions", {"model": model, "prompt": "Hello", "max_tokens": 4}
            )
            assert said["usage"]["completion_tokens"] == 4
        assert up.stop() == 0
    finally:
        up.close()
    assert "spec.pod" in log.read_text()
