"""``headrace config`` for files of ModelServices and LoraAdapters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from controller.api.kinds import KINDS
from controller.api.problems import read
from headrace.cli.app import app
from headrace.cli.documents import STARTS
from tests.support.bad_specs import BAD_SPECS

KIND_WORDS = ("model-service", "lora-adapter")


def config(*words: str) -> Result:
    return CliRunner().invoke(app, ["config", *words], env={"COLUMNS": "200"})


@pytest.mark.parametrize("word", KIND_WORDS)
def test_a_document_to_start_from_says_the_defaults_and_checks(tmp_path: Path, word: str) -> None:
    shown = config("show", "--kind", word).stdout
    document = yaml.safe_load(shown)
    assert read(document["kind"], document) == STARTS[word].spec
    file = tmp_path / "document.yaml"
    file.write_text(shown)
    result = config("check", str(file))
    assert (result.exit_code, result.stderr) == (0, f"{file}: ok\n")
    assert read(document["kind"], yaml.safe_load(result.stdout)) == STARTS[word].spec
    assert all(len(line) <= 100 for line in shown.splitlines())


def test_every_field_is_shown_under_what_it_means() -> None:
    lines = config("show", "--kind", "model-service").stdout.splitlines()
    where = lines.index("    - name: main")
    assert lines[where - 1] == "    # Told apart by this."
    assert "  # lora:" in lines, "what is unset is a comment"
    assert "  #   maxLoras: 8" in lines


def test_several_documents_are_checked_and_printed_with_their_defaults(tmp_path: Path) -> None:
    file = tmp_path / "all.yaml"
    file.write_text(
        "apiVersion: headrace.dev/v1alpha1\nkind: ModelService\nmetadata: {name: m}\nspec: {}\n"
        "---\napiVersion: v1\nkind: Secret\nmetadata: {name: key}\n---\n"
        "apiVersion: headrace.dev/v1alpha1\nkind: LoraAdapter\nmetadata: {name: a}\n"
        "spec: {base: m, source: 'hf://org/a'}\n"
    )
    result = config("check", str(file))
    assert result.exit_code == 0
    service, adapter = yaml.safe_load_all(result.stdout)
    assert service["spec"]["variants"][0]["name"] == "main"
    assert adapter["spec"] == {"base": "m", "source": "hf://org/a"}
    assert "Secret key: not ours, not checked" in result.stderr


def test_problems_stop_with_2_and_a_line_each(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    bad = next(row for row in BAD_SPECS if row.name == "two rules")
    file.write_text(yaml.safe_dump(bad.document))
    result = config("check", str(file))
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"headrace: {file}: document 1: ModelService m: 2 problem(s)\n" in result.stderr
    for field, words in bad.problems:
        assert f"\n  {field}: {words}\n" in result.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("replicas: 2\n", "expected documents with apiVersion and kind"),
        ("a: [\n", "not YAML"),
        ("apiVersion: headrace.dev/v1alpha1\nkind: X\nkind: Y\n", "'kind' appears twice"),
    ],
)
def test_a_file_that_is_no_document_is_refused(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "file.yaml"
    file.write_text(text)
    result = config("check", "--kind", "model-service", str(file))
    assert result.exit_code == 2
    assert said in result.stderr


def test_a_file_of_settings_is_checked_as_before(tmp_path: Path) -> None:
    file = tmp_path / "up.yaml"
    file.write_text("fleet: {replicas: 0}\n")
    result = config("check", str(file))
    assert result.exit_code == 2
    assert "fleet.replicas" in result.stderr


@pytest.mark.parametrize("word", KIND_WORDS)
def test_the_json_schema_of_a_kind_has_the_fields_of_its_documents(word: str) -> None:
    schema = json.loads(config("schema", "--kind", word).stdout)
    kind = KINDS[STARTS[word].kind]
    assert schema["properties"]["kind"] == {"const": kind.name}
    assert set(schema["properties"]["spec"]["properties"]) == {
        field.alias or name for name, field in kind.spec.model_fields.items()
    }
    assert schema["additionalProperties"] is False


def test_the_json_schema_of_settings_is_printed_too() -> None:
    assert "fleet" in json.loads(config("schema", "--kind", "up").stdout)["properties"]
