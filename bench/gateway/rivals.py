"""The contenders: how each is installed and started. Rivals live in environments of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.gateway.process import free_port

UV: Final = Path(sys.executable).with_name("uv")

RIVALS: Final[Mapping[str, str]] = {"smg": "1.13.0", "vllm-router": "0.1.17"}
"""Distribution on PyPI and version; each is a Rust router in a wheel."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One router under test.

    Attributes:
        name: Prefix of its figures.
        argv: How to start it on a port, before the endpoints given.
        ready_path: A path that answers 200 once it serves.

    """

    name: str
    argv: Callable[[int, Sequence[str]], list[str]]
    ready_path: str


def install(name: str, directory: Path) -> Path:
    """Install a rival into its own environment unless it is there; return its program."""
    home = directory / name
    done = home / f".installed-{RIVALS[name]}"
    if not done.exists():
        subprocess.run([UV, "venv", "-q", "--clear", "--python", sys.executable, home], check=True)
        environment = {**os.environ, "VIRTUAL_ENV": str(home)}
        spec = f"{name}=={RIVALS[name]}"
        subprocess.run([UV, "pip", "install", "-q", spec], check=True, env=environment, timeout=300)
        done.touch()
    return home / "bin" / name


def contenders(directory: Path) -> list[Contender]:
    """Return all four, ready to be started; rivals use their defaults but for the policy.

    ``cache_aware`` is the rivals' prefix-aware policy. smg logs two lines per request by default,
    vllm-router none, we one: each is measured as it comes.
    """
    smg = str(install("smg", directory))
    vllm_router = str(install("vllm-router", directory))

    def smg_argv(port: int, urls: Sequence[str]) -> list[str]:
        listen = ["--host", "127.0.0.1", "--port", str(port)]
        return [smg, "launch", *listen, "--worker-urls", *urls, *_rival_options()]

    def vllm_router_argv(port: int, urls: Sequence[str]) -> list[str]:
        listen = ["--host", "127.0.0.1", "--port", str(port)]
        return [vllm_router, *listen, "--worker-urls", *urls, *_rival_options()]

    return [
        Contender("headrace", _module("bench.gateway.ours"), "/ready"),
        Contender("smg", smg_argv, "/health"),
        Contender("vllm-router", vllm_router_argv, "/health"),
        Contender("bare-relay", _module("bench.gateway.bare_relay"), "/"),
    ]


def _rival_options() -> list[str]:
    return ["--policy", "cache_aware", "--prometheus-port", str(free_port())]


def _module(name: str) -> Callable[[int, Sequence[str]], list[str]]:
    return lambda port, urls: [sys.executable, "-m", name, str(port), *urls]
