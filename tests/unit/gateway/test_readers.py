from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from gateway.openai import Kind
from gateway.prefixes import Pieces
from gateway.readers import SimulatedReader, TokenizerReader
from gateway.tokenizer import load_tokenizer
from headrace.simulator.http.adapters import Adapters
from headrace.simulator.http.prepare import Site, chat_job, completion_job
from headrace.simulator.http.wire import ChatRequest, CompletionRequest, read
from kvcache.hashing import BlockHasher
from tests.support.made_tokenizers import BOS, make_folder


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "m", **fields}).encode()


@pytest.fixture
def reader(tmp_path: Path) -> TokenizerReader:
    folder = make_folder(tmp_path, "llama 3", bos=True)
    return TokenizerReader(load_tokenizer(folder, str), Pieces(1 << 20), b"")


@pytest.fixture
def plain(tmp_path: Path, reader: TokenizerReader) -> Tokenizer:
    tokenizer: Tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    return tokenizer


def only(reader: TokenizerReader, kind: Kind, **fields: Any) -> list[int]:
    found = reader.prompts(kind, body(**fields))
    assert found is not None
    (ids,) = found
    listed: list[int] = ids.tolist()
    return listed


def test_texts_get_special_tokens_and_conversations_do_not(
    reader: TokenizerReader, plain: Tokenizer
) -> None:
    text = only(reader, Kind.COMPLETION, prompt="the water")
    bare = only(reader, Kind.COMPLETION, prompt="the water", add_special_tokens=False)
    assert text == plain.encode("the water").ids == [plain.token_to_id(BOS), *bare]
    said = [{"role": "user", "content": "hi"}]
    shown = "<|start|>user\nhi<|end|>\n<|start|>assistant\n"
    chat = only(reader, Kind.CHAT, messages=said)
    assert chat == plain.encode(shown, add_special_tokens=False).ids
    assert (
        only(reader, Kind.CHAT, messages=said, add_special_tokens=True) == plain.encode(shown).ids
    )


def test_every_prompt_of_a_batch_is_read(reader: TokenizerReader) -> None:
    texts = reader.prompts(Kind.COMPLETION, body(prompt=["the water", "one of the halves"]))
    lists = reader.prompts(Kind.COMPLETION, body(prompt=[[1, 2, 3], [4]]))
    assert texts is not None
    assert len(texts) == 2
    assert [ids.tolist() for ids in lists or ()] == [[1, 2, 3], [4]]


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Kind.COMPLETION, {"prompt": ""}),
        (Kind.COMPLETION, {"prompt": [[]]}),
        (Kind.COMPLETION, {"prompt": [-1]}),
        (Kind.COMPLETION, {"prompt": [2**32]}),
        (Kind.COMPLETION, {"prompt": "\ud800"}),
        (Kind.COMPLETION, {"prompt": "a", "suffix": "b"}),
        (Kind.CHAT, {"messages": []}),
        (Kind.CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
        (Kind.EMBEDDING, {"input": "a"}),
    ],
)
def test_what_an_engine_refuses_or_reads_otherwise_has_no_tokens(
    kind: Kind, fields: dict[str, Any], reader: TokenizerReader
) -> None:
    assert reader.prompts(kind, body(**fields)) is None


CALLS = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "user", "content": "caf\u00e9 " * 50}]},
        {
            "messages": [
                {"role": "system", "content": [{"type": "text", "text": "a"}]},
                {"role": "assistant", "tool_calls": CALLS},
                {"role": "tool", "content": None},
            ],
            "tools": [{"type": "function", "function": {"name": "f"}}],
        },
        {"messages": [{"role": "user", "content": "a"}], "continue_final_message": True},
        {"messages": [{"role": "user", "content": "a"}], "add_generation_prompt": False},
        {"prompt": "a text of some length"},
        {"prompt": [5, 6, 7]},
        {"prompt": ["one", "two"]},
    ],
)
def test_simulated_engines_bodies_are_read_as_they_read_them(fields: dict[str, Any]) -> None:
    adapters = Adapters(("m",), enabled=False, limit=0)
    site = Site(("m",), adapters, BlockHasher(16), context_tokens=4_096, mean_output_tokens=8)
    raw = body(**fields)
    if "messages" in fields:
        kind, job = Kind.CHAT, chat_job(read(ChatRequest, raw), site)
    else:
        kind, job = Kind.COMPLETION, completion_job(read(CompletionRequest, raw), site)
    found = SimulatedReader().prompts(kind, raw)
    assert found is not None
    assert [len(ids) for ids in found] == job.prompt_tokens
    for ids, generation in zip(found, job.generations, strict=True):
        assert np.array_equal(ids, generation.prompt.ids)


def test_what_simulated_engines_refuse_has_no_tokens() -> None:
    image = [{"role": "user", "content": [{"type": "image_url"}]}]
    assert SimulatedReader().prompts(Kind.CHAT, body(messages=image)) is None
    assert SimulatedReader().prompts(Kind.COMPLETION, body(prompt=[2**31])) is None
    assert SimulatedReader().prompts(Kind.EMBEDDING, body(input="a")) is None
