"""Bytes we must agree on with vLLM 0.32; ``make_golden.py`` says how they were made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kvcache.events import AllBlocksCleared, BlockRemoved, BlockStored, decode_batch, encode_batch
from kvcache.hashing import BlockHasher, Scope, external

HERE = Path(__file__).parent
VECTORS: list[dict[str, Any]] = json.loads((HERE / "block_hashes.json").read_text())["vectors"]
FRAMES: dict[str, Any] = json.loads((HERE / "event_frames.json").read_text())


def scope_of(case: dict[str, Any]) -> Scope:
    name, path = case["lora"] or (None, None)
    return Scope(lora_name=name, lora_path=path, cache_salt=case["cache_salt"])


@pytest.mark.parametrize("case", VECTORS)
def test_hashes_equal_vllms(case: dict[str, Any]) -> None:
    hasher = BlockHasher(case["block_size"], case["algorithm"], case["python_hash_seed"])
    digests = hasher.hashes(case["token_ids"], scope_of(case))
    assert [digest.hex() for digest in digests] == case["digests"]
    assert [external(digest) for digest in digests] == case["external"]


def test_the_golden_files_were_made_by_vllm_itself() -> None:
    for name in ("block_hashes.json", "event_frames.json"):
        assert json.loads((HERE / name).read_text())["made_by"].startswith("vLLM 0.32")


@pytest.mark.parametrize("index", range(len(FRAMES["payloads"])))
def test_a_frame_of_vllms_decodes_and_encodes_to_the_same_bytes(index: int) -> None:
    payload, told = bytes.fromhex(FRAMES["payloads"][index]), FRAMES["batches"][index]
    batch = decode_batch(payload)
    assert (batch.ts, batch.data_parallel_rank) == (told["ts"], told["dp_rank"])
    assert [json.loads(msgspec.json.encode(event)) for event in batch.events] == [
        {**{"type": event["type"]}, **event} for event in told["events"]
    ]
    assert encode_batch(batch) == payload


def test_the_older_positional_form_decodes_to_the_same_events() -> None:
    payload = msgspec.msgpack.encode(
        [
            2.5,
            [
                ["BlockStored", [7, 8], None, [1, 2, 3, 4], 2, None],
                ["BlockStored", [9], 8, [5, 6], 2, 3, "CPU", "ad1"],
                ["BlockRemoved", [7]],
                ["BlockRemoved", [8], "GPU"],
                ["AllBlocksCleared"],
            ],
        ]
    )
    batch = decode_batch(payload)
    assert (batch.ts, batch.data_parallel_rank) == (2.5, None)
    assert batch.events == [
        BlockStored([7, 8], None, [1, 2, 3, 4], 2, None, None, None),
        BlockStored([9], 8, [5, 6], 2, 3, "CPU", "ad1"),
        BlockRemoved([7], None),
        BlockRemoved([8], "GPU"),
        AllBlocksCleared(),
    ]
