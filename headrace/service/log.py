"""Structured logs to standard error, with secrets removed. Touches structlog's global settings.

Only ``configure_logging`` has an effect; it is called once, by the process's ``main``.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Final

import orjson
import structlog
from typing_extensions import override

_SECRET: Final = re.compile(
    r"(^|[_-])(api[_-]?key|key|keys|token|password|passwd|secret|credential|authorization|cookie)$",
    re.IGNORECASE,
)

MASK: Final = "***"

LEVELS: Final = ("debug", "info", "warning", "error")


def is_secret(name: str) -> bool:
    """Return whether a field of this name holds a secret (``keys_file`` does not: it is a path)."""
    return _SECRET.search(name) is not None


def mask(value: object) -> object:
    """Return what stands for a secret; None and empty values stay, since they reveal nothing."""
    return MASK if value else value


def configure_logging(*, json: bool, level: str) -> None:
    """Send our log, and that of the libraries, to standard error.

    Args:
        json: One JSON object per line; else a form for people to read.
        level: One of ``LEVELS``; lines below it cost nothing.

    Raises:
        ValueError: if ``level`` is not one of ``LEVELS``.

    """
    if level not in LEVELS:
        raise ValueError(f"unknown log level {level!r}; known: {', '.join(LEVELS)}")
    threshold = getattr(logging, level.upper())
    stamped: list[structlog.typing.Processor] = [
        _drop_secrets,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    logger_factory: structlog.BytesLoggerFactory | structlog.PrintLoggerFactory
    if json:
        stamped.append(structlog.processors.JSONRenderer(serializer=_dumps))
        logger_factory = structlog.BytesLoggerFactory(sys.stderr.buffer)
    else:
        stamped.append(structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()))
        logger_factory = structlog.PrintLoggerFactory(sys.stderr)
    structlog.configure(
        processors=stamped,
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=logger_factory,
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_Forward()], level=max(threshold, logging.WARNING), force=True)


def get_logger(name: str) -> structlog.typing.FilteringBoundLogger:
    """Return a logger whose lines carry ``component=name``."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(component=name)
    return logger


def _dumps(event: object, **_: object) -> bytes:
    return orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS)


def _drop_secrets(
    _logger: object, _method: str, event: MutableMapping[str, object]
) -> MutableMapping[str, object]:
    """Replace the values of fields whose name says they are secret."""
    for name in event:
        if is_secret(name):
            event[name] = mask(event[name])
    return event


class _Forward(logging.Handler):
    """Hands the records of libraries that use the standard ``logging`` to structlog."""

    @override
    def emit(self, record: logging.LogRecord) -> None:
        logger = structlog.get_logger(component=record.name)
        logger.log(record.levelno, record.getMessage(), exc_info=record.exc_info)
