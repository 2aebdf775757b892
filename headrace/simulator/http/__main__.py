"""``python -m headrace.simulator.http``: a process of simulated engines."""

from __future__ import annotations

import argparse
import asyncio
import gc
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

import orjson
import uvloop
import yaml

from headrace.core.errors import ConfigError
from headrace.service.clock import RealClock
from headrace.service.log import LEVELS, configure_logging
from headrace.service.settings import describe, load_settings
from headrace.simulator.config import SimulatorSettings
from headrace.simulator.http.fleet import Fleet

_FLAGS: Final = (
    ("--host", "host", "address to listen on"),
    ("--port", "port", "of engine 0, the others follow; 0: the system chooses each"),
    ("--count", "count", "engines"),
    ("--time-scale", "time_scale", "engine seconds per wall second"),
    ("--seed", "seed", "of generated text and of faults"),
    ("--hardware", "engine.hardware", "card, by preset name"),
    ("--model", "engine.model", "model, by preset name"),
    ("--tp", "engine.tp", "cards per engine"),
    ("--block-size", "engine.block_size", "tokens per KV block"),
    ("--num-blocks", "engine.num_blocks", "KV blocks"),
    ("--max-num-seqs", "engine.max_num_seqs", "most requests in one step"),
    ("--max-num-batched-tokens", "engine.max_num_batched_tokens", "token budget of a step"),
    ("--max-model-len", "engine.max_model_len", "longest prompt plus output"),
    ("--kv-events-endpoint", "kv_events.endpoint", "PUB address; switches events on"),
    ("--kv-replay-endpoint", "kv_events.replay_endpoint", "ROUTER address"),
)


def parser() -> argparse.ArgumentParser:
    """Return the command line; every other setting is reached with ``--set``."""
    made = argparse.ArgumentParser(
        prog="python -m headrace.simulator.http",
        description="Simulated engines that look like vLLM; prints one JSON line when ready.",
    )
    made.add_argument("--config", help="settings file in YAML; - reads standard input")
    for flag, dotted, about in _FLAGS:
        made.add_argument(flag, dest=dotted, help=about)
    made.add_argument("--ports", help="one per engine, comma-separated; sets count too")
    made.add_argument("--served-name", help="names clients may use, comma-separated")
    made.add_argument("--kv-events", action="store_true", help="publish KV events")
    made.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="any setting, dotted"
    )
    made.add_argument("--show-config", action="store_true", help="print the settings and stop")
    made.add_argument("--log-level", default="info", choices=LEVELS)
    return made


def settings_from(argv: Sequence[str]) -> tuple[SimulatorSettings, argparse.Namespace]:
    """Return the settings that a command line asks for.

    Raises:
        ConfigError: something is unknown or out of range; all problems are listed.

    """
    flags = parser().parse_args(argv)
    overrides: dict[str, object] = {}
    for _, dotted, _ in _FLAGS:
        if getattr(flags, dotted) is not None:
            overrides[dotted] = getattr(flags, dotted)
    if flags.ports:
        overrides["ports"] = flags.ports.split(",")
        overrides["count"] = len(flags.ports.split(","))
    if flags.served_name:
        overrides["engine.served_names"] = flags.served_name.split(",")
    if flags.kv_events or "kv_events.endpoint" in overrides:
        overrides["kv_events.enabled"] = True
    for item in flags.set:
        dotted, equals, value = item.partition("=")
        if not equals:
            raise ConfigError(f"--set {item}: expected KEY=VALUE")
        try:
            overrides[dotted] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {item}: not YAML: {error}") from None
    path = None if flags.config is None else Path(flags.config)
    if flags.config == "-":
        path = Path("/dev/stdin")
    return load_settings(SimulatorSettings, path, overrides), flags


async def serve(settings: SimulatorSettings) -> None:
    """Run the engines until SIGTERM or SIGINT; a second signal ends the wait for streams."""
    loop = asyncio.get_running_loop()
    stopping, hurry = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        if stopping.is_set():
            hurry.set()
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    async with Fleet(settings, RealClock()) as fleet:
        gc.freeze()  # what is imported stays: the collector need not look at it again
        ready = {"event": "ready", "engines": [asdict(info) for info in fleet.infos()]}
        sys.stdout.write(orjson.dumps(ready).decode() + "\n")
        sys.stdout.flush()
        await stopping.wait()
        waits = [
            asyncio.create_task(fleet.drain(settings.drain_s)),
            asyncio.create_task(hurry.wait()),
        ]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    try:
        settings, flags = settings_from(sys.argv[1:] if argv is None else argv)
    except ConfigError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    if flags.show_config:
        sys.stdout.write(describe(settings))
        return 0
    configure_logging(json=not sys.stderr.isatty(), level=flags.log_level)
    status = 0
    try:
        uvloop.run(serve(settings))
    except* OSError as group:
        sys.stderr.write(f"error: {group.exceptions[0]}\n")
        status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
