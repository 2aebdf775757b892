"""``headrace runtime`` and ``headrace fetch``: what can be typed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headrace.cli import options
from headrace.cli.errors import readable_errors

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        help="Settings file; `headrace config show --kind runtime` prints one.",
    ),
]
CacheDir = Annotated[
    Path | None, typer.Option("--cache", help="Folder that keeps artifacts, shared by a node.")
]


def runtime(  # noqa: PLR0913 -- a command's options are its parameters
    *,
    config: ConfigFile = None,
    engine_url: Annotated[
        str | None, typer.Option("--engine-url", help="Of the engine; http://127.0.0.1:8000.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option("--engine", help="vllm (the default), sglang or simulated.")
    ] = None,
    host: options.Host = None,
    port: options.Port = None,
    cache: CacheDir = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            "--allow", help="What sources may begin with; repeat it. Instead of the file's."
        ),
    ] = None,
    adapters: Annotated[
        int | None, typer.Option("--adapters", help="Most adapters loaded at once; 0 refuses all.")
    ] = None,
    hold: Annotated[
        list[Path] | None,
        typer.Option("--hold", help="Folder in the cache, or a link to one, not to be evicted."),
    ] = None,
    kv_events: Annotated[
        str | None,
        typer.Option("--kv-events", help="Where the engine publishes KV events: relay them."),
    ] = None,
    kv_replay: Annotated[
        str | None, typer.Option("--kv-replay", help="Where it sends past ones again.")
    ] = None,
    drain_limit_s: Annotated[
        float | None,
        typer.Option("--drain-limit-s", help="Longest wait for streams when the engine is to go."),
    ] = None,
    log_level: options.LogLevel = None,
) -> None:
    """Stand beside one engine: readiness, drain, adapters, metrics, a relay of its KV events."""
    with readable_errors():
        from headrace.cli import siding  # noqa: PLC0415 -- start-up time

        flags = {
            "engine.url": engine_url,
            "engine.program": engine,
            "engine.adapters": adapters,
            "host": host,
            "port": port,
            "artifacts.cache_dir": cache,
            "artifacts.allow": allow or None,
            "hold": hold or None,
            "kv_relay.engine.events": kv_events,
            "kv_relay.engine.replay": kv_replay,
            "drain.limit_s": drain_limit_s,
            "log.level": log_level,
        }
        siding.run_runtime(
            config, {field: value for field, value in flags.items() if value is not None}
        )


def fetch(  # noqa: PLR0913 -- a command's options are its parameters
    source: Annotated[
        str,
        typer.Argument(help="A path, or file://, https://, s3://, gs:// or hf:// and the rest."),
    ],
    *,
    config: ConfigFile = None,
    cache: CacheDir = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Its name in the cache; default: the last word.")
    ] = None,
    digest: Annotated[
        str | None, typer.Option("--digest", help="sha256:… that it must have.")
    ] = None,
    link: Annotated[
        Path | None, typer.Option("--link", help="Make or move a link here to what was fetched.")
    ] = None,
    s3_endpoint: Annotated[
        str | None, typer.Option("--s3-endpoint", help="URL of an S3-compatible store.")
    ] = None,
    log_level: options.LogLevel = None,
) -> None:
    """Fetch a model or an adapter into the node's cache and print its path, for init containers."""
    with readable_errors():
        from headrace.cli import siding  # noqa: PLC0415 -- start-up time

        flags = {
            "artifacts.cache_dir": cache,
            "artifacts.s3.endpoint_url": s3_endpoint,
            "log.level": log_level,
        }
        siding.run_fetch(
            config,
            {field: value for field, value in flags.items() if value is not None},
            siding.Fetching(source, name, digest, link),
        )
