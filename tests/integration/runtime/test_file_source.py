from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog

from headrace.core.errors import ConfigError
from headrace.runtime.file_source import FileSource
from headrace.service.clock import RealClock

LOOK_S = 0.01
LIMIT_S = 10.0


def listing(*names: str) -> str:
    return "endpoints:\n" + "".join(f"- {{url: 'http://{name}:1', id: {name}}}\n" for name in names)


def ids(source: FileSource) -> list[str]:
    return [view.endpoint_id for view in source.endpoints()]


@asynccontextmanager
async def followed(path: Path) -> AsyncIterator[FileSource]:
    source = FileSource(path, RealClock(), LOOK_S)
    await source.load()
    task = asyncio.create_task(source.run())
    try:
        async with asyncio.timeout(LIMIT_S):
            yield source
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 -- not all of it is announced
        await asyncio.sleep(LOOK_S)


async def test_a_file_that_is_exchanged_or_written_in_place_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "endpoints.yaml"
    file.write_text(listing("a"))
    async with followed(file) as source:
        assert ids(source) == ["a"]
        other = tmp_path / "new"
        other.write_text(listing("a", "b"))
        other.replace(file)
        await until(lambda: ids(source) == ["a", "b"])
        file.write_text(listing("c"))
        await until(lambda: ids(source) == ["c"])
        assert source.problem == ""


async def test_a_config_map_that_is_exchanged_is_read_again(tmp_path: Path) -> None:
    for version in ("1", "2"):
        (tmp_path / f"..{version}").mkdir()
        (tmp_path / f"..{version}" / "endpoints.yaml").write_text(listing(f"v{version}"))
    (tmp_path / "..data").symlink_to("..1")
    file = tmp_path / "endpoints.yaml"
    file.symlink_to("..data/endpoints.yaml")
    async with followed(file) as source:
        assert ids(source) == ["v1"]
        (tmp_path / "..new").symlink_to("..2")
        (tmp_path / "..new").replace(tmp_path / "..data")
        await until(lambda: ids(source) == ["v2"])


async def test_one_that_is_bad_or_gone_leaves_the_last_good_list_and_says_so_once(
    tmp_path: Path,
) -> None:
    file = tmp_path / "endpoints.yaml"
    file.write_text(listing("a"))
    with structlog.testing.capture_logs() as lines:
        async with followed(file) as source:
            file.write_text("endpoints: [{url: nowhere}]\n")
            await until(lambda: "endpoints[0].url: expected http://" in source.problem)
            file.touch()
            await asyncio.sleep(5 * LOOK_S)
            assert ids(source) == ["a"]
            file.unlink()
            await until(lambda: "cannot be read" in source.problem)
            assert source.away
            await asyncio.sleep(5 * LOOK_S)
            assert ids(source) == ["a"]
            file.write_text(listing("a", "b"))
            await until(lambda: ids(source) == ["a", "b"])
            assert source.problem == ""
            assert not source.away
    told = [line["why"] for line in lines if line["event"] == "endpoints_file_bad"]
    assert len(told) == 2, told


@pytest.mark.parametrize("text", [None, "endpoints: [{url: nowhere}]"])
async def test_one_that_is_bad_at_the_start_is_an_error_that_names_it(
    tmp_path: Path, text: str | None
) -> None:
    file = tmp_path / "endpoints.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=r"endpoints\.yaml: (cannot be read|endpoints\[0\]\.url)"):
        await FileSource(file, RealClock()).load()
