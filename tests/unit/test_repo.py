"""Limits the code keeps to, checked so that growth cannot undo them."""

import ast
import re
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ["headrace", "gateway", "router", "kvcache", "autoscaler", "controller"]
FILES = sorted(p for name in [*PACKAGES, "bench"] for p in (ROOT / name).rglob("*.py"))
LINES_PER_FILE = 400
LINES_PER_FUNCTION = 70
README_LINES = 150


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_stay_small(path: Path) -> None:
    source = path.read_text()
    assert source.count("\n") <= LINES_PER_FILE
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < LINES_PER_FUNCTION, node.name


def test_importing_everything_starts_nothing_and_prints_nothing() -> None:
    names = [
        ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for p in FILES
        if p.stem != "__main__"
        and p.relative_to(ROOT).parts[0] in PACKAGES
        # run by the engine's own Python, never by ours
        and not p.stem.endswith("_in_engine")
    ]
    code = f"import threading, {', '.join(names)}; assert threading.active_count() == 1"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stdout


def test_no_dependency_installs_our_top_level_names() -> None:
    taken: dict[str, str] = {}
    for found in distributions():
        for file in found.files or []:
            top = file.parts[0]
            if top in PACKAGES and found.metadata["Name"] != "headrace":
                taken[top] = str(found.metadata["Name"])
    assert taken == {}


def test_the_locks_are_hashed_and_name_no_host() -> None:
    for path in (ROOT / "requirements").glob("*.lock"):
        text = path.read_text()
        assert "://" not in text, path.name
        pins = re.findall(r"^[a-z0-9][^ \n]*==", text, re.M)
        assert len(pins) > 10
        assert text.count("--hash=sha256:") >= len(pins)


def test_the_readme_is_short() -> None:
    assert (ROOT / "README.md").read_text().count("\n") <= README_LINES


def test_every_policy_has_its_page() -> None:
    from router.catalog import POLICIES

    pages = {p.stem for p in (ROOT / "docs" / "policies").glob("*.md")}
    assert pages >= set(POLICIES)
