"""The real vLLM that some tests need: where it is, a model for it, and when to go without."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".cache/vllm/bin/python"
MODEL = ROOT / ".cache/models/small"
MAKER = ROOT / "tests/e2e/vllm/make_model.py"
MAKE_LIMIT_S = 300


def require_vllm(request: pytest.FixtureRequest) -> Path:
    """Return vLLM's Python; skip by name where it is not asked for or not there.

    With HEADRACE_REQUIRE_VLLM=1 or CI=true a missing environment is a failure, not a skip.
    """
    if "vllm" not in request.config.option.markexpr:
        pytest.skip("needs a real vLLM: run `make e2e-vllm`")
    if not os.access(PYTHON, os.X_OK):
        why = f"vLLM is not installed at {PYTHON.relative_to(ROOT)}: run scripts/install-vllm"
        if os.environ.get("HEADRACE_REQUIRE_VLLM") == "1" or os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    return PYTHON


def make_model() -> Path:
    """Return the folder of a tiny random Llama with a tokenizer of its own, made if need be."""
    subprocess.run(
        [str(PYTHON), "-W", "ignore", str(MAKER), str(MODEL)],
        check=True,
        timeout=MAKE_LIMIT_S,
        capture_output=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    return MODEL


def version(python: Path, distribution: str) -> str:
    """Return the version of a distribution in another environment."""
    asked = f"import importlib.metadata as m; print(m.version({distribution!r}))"
    done = subprocess.run(
        [str(python), "-c", asked], check=True, timeout=60, capture_output=True, text=True
    )
    return done.stdout.strip()
