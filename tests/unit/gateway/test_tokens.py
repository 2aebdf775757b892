from __future__ import annotations

import asyncio
import importlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from tokenizers import Tokenizer

from gateway.config import TokenSettings
from gateway.openai import Kind, Parsed, parse
from gateway.rendering import ChatTemplate
from gateway.tokens import WRONG_IN_A_ROW, ModelSource, PromptTokens, Tokenised
from headrace.core.endpoint import BlockScheme
from headrace.core.ids import ModelName
from headrace.service.telemetry import Telemetry
from kvcache.hashing import BlockHasher, Scope, external
from tests.support.made_tokenizers import make_folder

SCHEME = BlockScheme(4, "sha256_cbor")
NEVER_MS = 60_000.0


def chat(content: str = "the water to the turbines, and away again", **fields: Any) -> Parsed:
    body = {"model": "m", "messages": [{"role": "user", "content": content}], **fields}
    return parse(Kind.CHAT, json.dumps(body).encode())


def completion(prompt: Any, **fields: Any) -> Parsed:
    body = {"model": "m", "prompt": prompt, **fields}
    return parse(Kind.COMPLETION, json.dumps(body).encode())


class Bench:
    """Prompt tokens and what they counted."""

    def __init__(self, **settings: Any) -> None:
        self.telemetry = Telemetry(CollectorRegistry())
        self.tokens = PromptTokens(
            TokenSettings(**{"limit_ms": NEVER_MS, **settings}), self.telemetry
        )

    async def of(self, parsed: Parsed, source: ModelSource | None) -> Tokenised | None:
        return await self.tokens.of(parsed, source, [SCHEME])

    def count(self, result: str) -> float:
        return self.telemetry.counter("headrace_tokenised_total").labels(result).value


@pytest.fixture
def bench() -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(**settings: Any) -> Bench:
        made.append(Bench(**settings))
        return made[-1]

    yield make
    for each in made:
        each.tokens.close()


@pytest.fixture
def source(tmp_path: Path) -> ModelSource:
    return ModelSource(ModelName("m"), str(make_folder(tmp_path / "model", bos=True)))


SIMULATED = ModelSource(ModelName("m"), simulated=True)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Keep every rendering waiting until the event is set."""
    go = threading.Event()
    render = ChatTemplate.render

    def wait(self: ChatTemplate, conversation: Any) -> str | None:
        assert go.wait(30)
        return render(self, conversation)

    monkeypatch.setattr(ChatTemplate, "render", wait)
    yield go
    go.set()


@pytest.mark.parametrize("inline_bytes", [0, 1 << 20])
async def test_a_prompt_has_its_engines_tokens_and_block_hashes(
    inline_bytes: int, bench: Callable[..., Bench], source: ModelSource
) -> None:
    tested = bench(inline_bytes=inline_bytes)
    assert source.root is not None
    plain = Tokenizer.from_file(f"{source.root}/tokenizer.json")
    for _ in range(3):
        found = await tested.of(completion(["one of the two halves", "it"]), source)
        assert found is not None
        want = plain.encode("one of the two halves").ids
        assert found.token_ids.tolist() == want
        assert found.tokens == len(want) + len(plain.encode("it").ids)
        digests = BlockHasher(4, "sha256_cbor").hashes(want)
        assert list(found.blocks[SCHEME]) == [external(digest) for digest in digests]
    assert tested.count("exact") == 3


async def test_adapter_and_salt_are_part_of_the_hashes(
    bench: Callable[..., Bench], source: ModelSource
) -> None:
    adapter = ModelSource(source.model, source.root, lora_name="ad", lora_path="/adapters/ad")
    found = await bench().of(chat(cache_salt="tenant"), adapter)
    assert found is not None
    scope = Scope("ad", "/adapters/ad", "tenant")
    digests = BlockHasher(4, "sha256_cbor").hashes(found.token_ids, scope)
    assert list(found.blocks[SCHEME]) == [external(digest) for digest in digests]


async def test_every_scheme_that_can_be_reproduced_has_its_hashes(
    bench: Callable[..., Bench],
) -> None:
    schemes = [BlockScheme(4), BlockScheme(8, "sha256_cbor", "0"), BlockScheme(4, "xxhash")]
    found = await bench().tokens.of(chat(), SIMULATED, schemes)
    assert found is not None
    assert set(found.blocks) == set(schemes[:2])
    assert len(found.blocks[schemes[0]]) == found.tokens // 4


async def test_nothing_is_looked_for_where_it_is_of_no_use_or_unknown(
    bench: Callable[..., Bench], source: ModelSource
) -> None:
    tested = bench(body_bytes=1_024)
    assert await tested.tokens.of(chat(), source, []) is None
    assert await tested.of(chat(), None) is None
    assert await tested.of(chat(), ModelSource(ModelName("m"))) is None
    assert await bench(enabled=False).of(chat(), source) is None
    embedding = parse(Kind.EMBEDDING, b'{"model": "m", "input": "a"}')
    assert await tested.of(embedding, source) is None
    assert await tested.of(chat("long " * 500), source) is None
    assert tested.count("unknown") == 1


async def test_a_folder_of_the_settings_wins_over_what_engines_report(
    bench: Callable[..., Bench], source: ModelSource
) -> None:
    assert source.root is not None
    remote = ModelSource(source.model, "/where/the/engine/has/it")
    assert await bench().of(chat(), remote) is None
    assert await bench(folders={"m": Path(source.root)}).of(chat(), remote) is not None


async def test_unusable_files_are_looked_at_once(
    bench: Callable[..., Bench], source: ModelSource
) -> None:
    assert source.root is not None
    file = f"{source.root}/tokenizer.json"
    os.rename(file, f"{file}.away")
    tested = bench()
    assert await tested.of(chat(), source) is None
    os.rename(f"{file}.away", file)
    assert await tested.of(chat(), source) is None
    assert tested.count("unknown") == 1


async def test_without_the_extra_prompts_go_by_the_estimate(
    bench: Callable[..., Bench], source: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", missing)
    tested = bench()
    assert await tested.of(chat(), source) is None
    assert await tested.of(chat(), SIMULATED) is not None


async def test_a_request_does_not_wait_longer_than_its_limit_and_the_next_turn_finds_the_work_done(
    bench: Callable[..., Bench], source: ModelSource, slow: threading.Event
) -> None:
    tested = bench(limit_ms=20.0, inline_bytes=0)
    assert await tested.of(completion("load it"), source) is not None
    assert await tested.of(chat(), source) is None
    assert tested.count("late") == 1
    slow.set()
    tested.tokens._settings = TokenSettings(limit_ms=NEVER_MS)
    assert await tested.of(chat(), source) is not None


async def test_prompts_beyond_the_waiting_ones_are_not_waited_for(
    bench: Callable[..., Bench], source: ModelSource, slow: threading.Event
) -> None:
    tested = bench(threads=1, waiting=2, inline_bytes=0)
    assert await tested.of(completion("load it"), source) is not None
    waiting = [asyncio.create_task(tested.of(chat(), source)) for _ in range(2)]
    await asyncio.sleep(0)
    assert await tested.of(chat(), source) is None
    assert tested.count("full") == 1
    slow.set()
    assert None not in await asyncio.gather(*waiting)
    assert await tested.of(chat(), source) is not None


async def test_a_request_that_goes_away_leaves_its_place_when_its_work_ends(
    bench: Callable[..., Bench], source: ModelSource, slow: threading.Event
) -> None:
    tested = bench(threads=1, waiting=1, inline_bytes=0)
    assert await tested.of(completion("load it"), source) is not None
    gone = asyncio.create_task(tested.of(chat(), source))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait({gone})
    assert await tested.of(chat(), source) is None
    slow.set()
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(tested.tokens._pool, int)  # behind the one that was left
    assert await tested.of(chat(), source) is not None


async def test_a_failure_is_counted_and_costs_the_request_nothing_else(
    bench: Callable[..., Bench], source: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("a bug")

    tested = bench(inline_bytes=0)
    monkeypatch.setattr(ChatTemplate, "render", fail)
    assert await tested.of(chat(), source) is None
    assert tested.count("failed") == 1


async def test_what_was_prepared_is_there_for_the_first_request(
    bench: Callable[..., Bench], source: ModelSource
) -> None:
    tested = bench()
    assert await tested.tokens.prepare(source)
    assert not await tested.tokens.prepare(ModelSource(ModelName("m"), "/no/such/folder"))
    assert not await tested.tokens.prepare(ModelSource(ModelName("m")))
    asked = tested.of(chat(), source)
    with pytest.raises(StopIteration):  # small and prepared: done at once, without a thread
        asked.send(None)


async def test_a_tokenizer_that_keeps_miscounting_is_not_trusted_any_more(
    bench: Callable[..., Bench], source: ModelSource
) -> None:
    tested = bench()
    found = await tested.of(chat(), source)
    assert found is not None
    for told in [1] * (WRONG_IN_A_ROW - 1) + [found.tokens] + [1] * (WRONG_IN_A_ROW - 1):
        tested.tokens.reported(source, found, told)
    assert await tested.of(chat(), source) is not None
    tested.tokens.reported(source, found, 1)
    assert await tested.of(chat(), source) is None


async def test_a_tokenizer_is_verified_against_its_engine(
    bench: Callable[..., Bench], source: ModelSource
) -> None:
    assert source.root is not None
    plain = Tokenizer.from_file(f"{source.root}/tokenizer.json")
    asked: list[Any] = []

    async def engine(body: bytes) -> list[int]:
        request = json.loads(body)
        asked.append(request)
        if "prompt" in request:
            ids: list[int] = plain.encode(request["prompt"]).ids
            return ids
        shown = "".join(
            f"<|start|>{each['role']}\n{each['content']}<|end|>\n" for each in request["messages"]
        )
        ids = plain.encode(f"{shown}<|start|>assistant\n", add_special_tokens=False).ids
        return ids

    async def other_engine(body: bytes) -> list[int]:
        return [0, *await engine(body)]

    good, bad = bench(), bench()
    assert await good.tokens.verify(source, engine)
    assert [request["model"] for request in asked] == ["m"] * 3
    assert not await bad.tokens.verify(source, other_engine)
    assert await good.of(chat(), source) is not None
    assert await bad.of(chat(), source) is None
    assert not await good.tokens.verify(ModelSource(ModelName("m")), engine)
    nowhere = ModelSource(ModelName("m"), "/no/such/folder")
    assert not await good.tokens.verify(nowhere, engine)
