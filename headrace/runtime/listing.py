"""Lists of endpoints as text: what a file or a fleet's socket says. Pure.

    {"endpoints": [{"url": "http://10.0.0.7:8000", "id": "a"}, ...]}

Each has the fields of ``EndpointSettings``. A list may be written as JSON or as YAML; we write one
line of JSON, without what is at its default, so that an older reader stumbles only over what it
could not honour.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from headrace.core.endpoint import EndpointView
from headrace.core.errors import ConfigError
from headrace.runtime.config import MAX_LISTED, EndpointSettings, told_apart
from headrace.service.settings import parse_yaml

LISTING_BYTES: Final = 4 << 20
"""Longest text read: 4,096 endpoints take about a third of it."""


class Listing(BaseModel):
    """A list of endpoints."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoints: tuple[EndpointSettings, ...] = Field(max_length=MAX_LISTED)

    @field_validator("endpoints")
    @classmethod
    def _told_apart(cls, endpoints: tuple[EndpointSettings, ...]) -> tuple[EndpointSettings, ...]:
        return told_apart(endpoints)


def read_listing(text: bytes) -> list[EndpointView]:
    """Return the endpoints that a text lists, before anyone has looked at them.

    Raises:
        ConfigError: with all that is wrong, as ``endpoints[2].url: expected ...``.

    """
    if len(text) > LISTING_BYTES:
        raise ConfigError(f"longer than {LISTING_BYTES} bytes")
    try:
        listing = Listing.model_validate(_parsed(text))
    except ValidationError as error:
        raise ConfigError(
            "\n".join(_problem(item["loc"], item) for item in error.errors())
        ) from None
    return [endpoint.view() for endpoint in listing.endpoints]


def write_listing(views: Iterable[EndpointView]) -> bytes:
    """Return the line, with its end, that ``read_listing`` makes the same views of.

    Of their health only whether they drain is told, and neither load nor files.
    """
    listing = Listing(endpoints=tuple(EndpointSettings.of(view) for view in views))
    return listing.model_dump_json(exclude_defaults=True).encode() + b"\n"


def _parsed(text: bytes) -> object:
    """Read JSON where it is some: of thousands of endpoints YAML takes seconds."""
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        return parse_yaml(text)


def _unique(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key in found if sum(key == other for other, _ in pairs) > 1)
        raise ConfigError(f"key {twice!r} appears twice")
    return found


def _problem(loc: Sequence[int | str], item: object) -> str:
    assert isinstance(item, dict)
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    message = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        message = "unknown key"
    return f"{where.lstrip('.') or '(all)'}: {message[:1].lower()}{message[1:]}"
