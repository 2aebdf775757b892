"""What must be true of the images, as far as it can be read off their recipes."""

from __future__ import annotations

import re
import tomllib
from typing import Final

import pytest
import yaml

from tests.support.chart import CHART, ROOT

RECIPES: Final = {path.name: path for path in sorted((ROOT / "deploy").glob("Dockerfile*"))}
every = pytest.mark.parametrize("name", RECIPES)


def steps(name: str) -> list[tuple[str, str]]:
    """Return instruction and arguments of each step."""
    text = re.sub(r"^\s*#.*\n", "", RECIPES[name].read_text(), flags=re.M).replace("\\\n", " ")
    parts = [line.split(None, 1) for line in text.splitlines() if line.strip()]
    return [(instruction, rest) for instruction, rest in parts]


@every
def test_the_base_can_be_exchanged(name: str) -> None:
    ours = name == "Dockerfile.ray"  # which adds to our own image
    argument = "HEADRACE=headrace:0.1.0" if ours else "BASE=python:3.11-slim-bookworm"
    assert steps(name)[0] == ("ARG", argument)
    bases = [rest.split()[0] for instruction, rest in steps(name) if instruction == "FROM"]
    assert set(bases) == {"${HEADRACE}" if ours else "${BASE}"}


@every
def test_it_runs_as_the_user_that_the_chart_asks_for(name: str) -> None:
    users = [rest for instruction, rest in steps(name) if instruction == "USER"]
    assert users[-1] == "10001:10001"
    assert users[:-1] in ([], ["root"] if name == "Dockerfile.ray" else [])
    assert "runAsUser: 10001" in (CHART / "templates/_helpers.tpl").read_text()


@every
def test_whatever_is_installed_is_hashed_and_nothing_installs_in_what_is_shipped(name: str) -> None:
    installs = [
        part
        for instruction, rest in steps(name)
        if instruction == "RUN"
        for part in rest.split("&&")
        if "pip" in part and " install " in part
    ]
    assert installs
    for part in installs:
        assert "--require-hashes" in part or "--no-index" in part
    made = [rest for instruction, rest in steps(name) if instruction == "RUN" and "venv" in rest]
    for rest in made:  # what installs is in no layer that is shipped
        assert "-m venv --without-pip /opt/" in rest or "rm -r /tmp/tools" in rest


def test_what_is_copied_reaches_the_build() -> None:
    allowed = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    copied = {
        source
        for name in RECIPES
        for instruction, rest in steps(name)
        if instruction == "COPY" and "--from" not in rest
        for source in rest.split()[:-1]
    }
    for source in copied - {"."}:
        assert {source, source.partition("/")[0]} & allowed, source
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    assert packages <= allowed
    assert {project["project"]["readme"], "pyproject.toml", "LICENSE"} <= allowed


def test_the_ports_are_those_of_the_chart() -> None:
    (ports,) = [
        rest.split() for instruction, rest in steps("Dockerfile") if instruction == "EXPOSE"
    ]
    policy = yaml.safe_load((CHART / "values.yaml").read_text())["networkPolicy"]
    assert ports == ["8080", "8081", "8082"]
    assert 8081 in policy["enginePorts"]


def test_the_image_has_the_same_versions_that_tests_run_with() -> None:
    pins = {
        lock: dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / lock).read_text(), re.M))
        for lock in ("requirements/base.lock", "requirements/image.lock")
    }
    base, image = pins.values()
    assert base.items() <= image.items()


def test_vllm_gets_its_name_as_scripts_install_vllm_gives_it() -> None:
    ours = (ROOT / "deploy/vllm-as-vllm.py").read_text().rpartition('"""\n')[2].strip()
    assert ours in (ROOT / "scripts/install-vllm").read_text()
