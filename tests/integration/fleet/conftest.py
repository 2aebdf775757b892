from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from controller.fleets.config import FleetSettings
from headrace.service.settings import load_settings

FAKE = Path(__file__).with_name("fake_vllm.py")


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., FleetSettings]:
    """Return a function that makes settings for a fleet of stand-ins for vLLM."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{FAKE}" "$@"\n')
    python.chmod(0o755)
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")

    def make(fake: str = "", **values: object) -> FleetSettings:
        return load_settings(
            FleetSettings,
            None,
            {
                "engine": "vllm",
                "model": str(model),
                "python": str(python),
                "prefork": False,
                "replicas": 1,
                "env": {"FAKE": fake},
                "state_dir": str(tmp_path / "state"),
                "probe.starting_period_s": 0.02,
                "probe.period_s": 0.05,
                "restart.first_s": 0.01,
                "timeouts.start_s": 20,
                "timeouts.finish_s": 0,
                "timeouts.kill_after_s": 0.3,
                **values,
            },
        )

    return make
