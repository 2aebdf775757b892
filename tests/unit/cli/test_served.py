"""What ``headrace up -f`` makes of a file of documents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from controller.api.documents import read_documents
from controller.fleets.config import FleetKind
from headrace.cli.app import app
from headrace.cli.config import KeepSettings, UpSettings
from headrace.cli.served import fleet_with_documents, with_adapters, with_documents
from headrace.core.adapter import AdapterSpec
from headrace.core.errors import ConfigError
from headrace.core.ids import ModelName
from tests.support.spec_documents import adapter, service

DIGEST = f"sha256:{'0' * 64}"


def served(
    *documents: dict[str, Any], settings: dict[str, Any] | None = None
) -> tuple[UpSettings, list[str]]:
    return with_documents(
        UpSettings.model_validate(settings or {}), read_documents(list(documents))
    )


def problem(*documents: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        served(*documents)
    return str(caught.value)


def test_the_service_decides_the_fleet_and_the_settings_the_rest() -> None:
    made, unused = served(
        service({"replicas": 3, "pod": {"labels": {"a": "b"}}}),
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "key"}},
        settings={"fleet": {"kind": "ray", "replicas": 9}, "gateway": {"port": 1234}},
    )
    assert (made.fleet.kind, made.fleet.replicas, made.fleet.name_served) == (
        FleetKind.RAY, 3, "m"
    )  # fmt: skip
    assert made.gateway.port == 1234
    assert unused == ["spec.pod", "Secret key"]


def test_a_fleet_without_a_gateway_leaves_adapters_to_the_gateways() -> None:
    made, unused = fleet_with_documents(
        KeepSettings.model_validate({"publish": {"socket": "s"}}),
        read_documents(
            [
                service({"replicas": 3, "lora": {}}),
                adapter({"base": "m", "source": "hf://o/a"}, "a"),
            ]
        ),
    )
    assert (made.fleet.replicas, made.publish.socket) == (3, Path("s"))
    assert unused == ["LoraAdapter a"]


def test_adapters_become_the_gateways_on_the_name_that_is_served() -> None:
    made, _ = served(
        service({"model": {"name": "chat"}, "lora": {"maxLoras": 2, "maxCpuLoras": 5}}),
        adapter({"base": "m", "source": "hf://o/a", "digest": DIGEST, "rank": 8}, "a"),
        adapter({"base": "m", "source": "file:///b", "name": "o/b", "replicas": 1}, "b"),
        settings={
            "gateway": {
                "adapters": {
                    "load_s": 9,
                    "known": [{"name": "c", "base": "chat", "source": "file:///c"}],
                }
            }
        },
    )
    chat = ModelName("chat")
    assert made.gateway.adapters.specs() == [
        AdapterSpec(ModelName("c"), chat, "file:///c"),
        AdapterSpec(ModelName("a"), chat, "hf://o/a", rank=8, digest=DIGEST),
        AdapterSpec(ModelName("o/b"), chat, "file:///b", replicas=1),
    ]
    assert (made.gateway.adapters.slots, made.gateway.adapters.per_endpoint) == (2, 5)
    assert made.gateway.adapters.load_s == 9


def test_numbers_of_adapters_that_the_settings_name_are_kept() -> None:
    made, _ = served(service({"lora": {}}), settings={"gateway": {"adapters": {"slots": 3}}})
    assert (made.gateway.adapters.slots, made.gateway.adapters.per_endpoint) == (3, 64)


def test_adapters_need_a_service_that_serves_them() -> None:
    loaded = adapter({"base": "x", "source": "s"})
    assert problem(service({}), loaded).splitlines() == [
        "LoraAdapter a: spec.base: m is needed, the only model",
        "ModelService m: spec.lora: needed for the LoraAdapters beside it",
    ]


def test_exactly_one_service_is_served() -> None:
    two = (service({}), service({}, "n"))
    assert problem(*two) == "kind: one ModelService is needed, 2 are given"
    assert problem(adapter({"base": "m", "source": "s"})) == (
        "kind: one ModelService is needed, 0 are given"
    )


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        ("fleet: {}\n", (), "expected documents with apiVersion and kind"),
        ("{apiVersion: headrace.dev/v1alpha1, kind: ModelService, metadata: {name: m}, "
         "spec: {replicas: 0}}", (), "spec.replicas: at least 1 is needed where nothing scales"),
        ("{apiVersion: headrace.dev/v1alpha1, kind: ModelService, metadata: {name: m}, "
         "spec: {replica: 0}}", (), 'spec.replica: unknown field "spec.replica"'),
        ("{}", ("--replicas", "2", "--engine", "vllm", "--model", "m"),
         "--engine, --model, --replicas: not with --model-service, which says it"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_stops_the_command_with_2(
    tmp_path: Path, text: str, words: tuple[str, ...], said: str
) -> None:
    file = tmp_path / "m.yaml"
    file.write_text(text)
    result = CliRunner().invoke(app, ["up", "-f", str(file), *words], env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def listed(*ranks: int | None, **fleet: object) -> UpSettings:
    known = [
        {"name": f"a{index}", "base": "m", "source": "file:///a", "rank": rank}
        for index, rank in enumerate(ranks)
    ]
    settings = {"fleet": {"engine": "vllm", "model": "m", **fleet}}
    return with_adapters(
        UpSettings.model_validate({**settings, "gateway": {"adapters": {"known": known}}})
    )


def test_vllm_is_started_so_that_it_can_load_the_adapters_that_are_listed() -> None:
    fleet = listed(8, 100).fleet
    assert " ".join(fleet.engine_args) == (
        "--enable-lora --max-loras 8 --max-cpu-loras 64 --max-lora-rank 128"
    )
    assert fleet.env == {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
    assert listed(8, None).fleet.engine_args[-1] == "64", "a rank that nobody said may be any"


def test_without_adapters_and_for_simulated_engines_nothing_is_added() -> None:
    assert listed().fleet.engine_args == ()
    assert listed().fleet.env == {}
    assert listed(8, engine="simulated", model=None).fleet.engine_args == ()


def test_flags_of_ones_own_for_adapters_win() -> None:
    given = ["--enable-lora", "--max-loras=2"]
    fleet = listed(8, engine_args=given).fleet
    assert list(fleet.engine_args) == given
    assert fleet.env == {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
