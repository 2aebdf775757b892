"""Real Redis servers, for the tests of whatever uses one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.redis_server import BINARY, MISSING, RedisServer


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """The URL of a real Redis server that tests share and leave running."""
    if BINARY is None:
        pytest.skip(MISSING)
    server = RedisServer()
    server.start()
    try:
        yield server.url
    finally:
        server.stop()


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A real Redis server that a test may stop, start and freeze."""
    if BINARY is None:
        pytest.skip(MISSING)
    server = RedisServer()
    server.start()
    try:
        yield server
    finally:
        server.stop()
