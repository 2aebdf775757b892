"""Write the golden files beside this one.

    python tests/golden/kvcache/make_golden.py             # with the independent implementation below
    .cache/vllm/bin/python tests/golden/kvcache/make_golden.py   # with vLLM's own code

Both write the same bytes; ``made_by`` in the files tells which was used last.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import os
import pickle
import random
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def cases() -> list[dict[str, Any]]:
    rng = random.Random(20260101)
    made: list[dict[str, Any]] = []
    for algorithm in ("sha256", "sha256_cbor"):
        for block_size, lora, salt, seed in (
            (16, None, None, None),
            (16, None, "tenantA", None),
            (32, ["ad1", "/adapters/ad1"], None, None),
            (16, ["ad1", "/adapters/ad1"], "tenantA", None),
            (4, None, None, "42"),
        ):
            sizes = (24, 256, 65_536, 151_936, 2**31)
            ids = [rng.randrange(rng.choice(sizes)) for _ in range(block_size * 4 + 3)]
            made.append(
                {
                    "algorithm": algorithm,
                    "block_size": block_size,
                    "lora": lora,
                    "cache_salt": salt,
                    "python_hash_seed": seed,
                    "token_ids": ids,
                }
            )
    return made


def straightforward(case: dict[str, Any]) -> list[str]:
    """The recipe, written once more without any of the product's code."""
    import cbor2

    def digest(value: object) -> bytes:
        if case["algorithm"] == "sha256":
            return hashlib.sha256(pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)).digest()
        return hashlib.sha256(cbor2.dumps(value, canonical=True)).digest()

    size, ids = case["block_size"], case["token_ids"]
    parent = digest(case["python_hash_seed"] or "vllm-none-hash")
    out = []
    for index in range(len(ids) // size):
        extra: list[tuple[str, ...]] = [("lora", *case["lora"])] if case["lora"] else []
        if case["cache_salt"] and index == 0:
            extra.append(("cache_salt", case["cache_salt"]))
        block = tuple(ids[index * size : (index + 1) * size])
        parent = digest((parent, block, tuple(extra) or None))
        out.append(parent.hex())
    return out


def by_vllm(case: dict[str, Any]) -> list[str]:
    """What vLLM itself gives for the request."""
    os.environ.pop("PYTHONHASHSEED", None)
    if case["python_hash_seed"]:
        os.environ["PYTHONHASHSEED"] = case["python_hash_seed"]
    kv = importlib.import_module("vllm.v1.core.kv_cache_utils")
    hash_fn = getattr(importlib.import_module("vllm.utils.hashing"), case["algorithm"])
    kv.init_none_hash(hash_fn)
    lora = None
    if case["lora"]:
        request_type = importlib.import_module("vllm.lora.request").LoRARequest
        lora = request_type(case["lora"][0], 1, case["lora"][1])
    request = importlib.import_module("vllm.v1.request").Request(
        request_id="golden",
        prompt_token_ids=case["token_ids"],
        sampling_params=importlib.import_module("vllm").SamplingParams(max_tokens=1),
        pooling_params=None,
        lora_request=lora,
        cache_salt=case["cache_salt"],
        block_hasher=kv.get_request_block_hasher(case["block_size"], hash_fn),
    )
    return [bytes(digest).hex() for digest in request.block_hashes]


BATCHES: list[dict[str, Any]] = [
    {
        "ts": 1795471146.5,
        "dp_rank": 0,
        "events": [
            {
                "type": "BlockStored",
                "block_hashes": [6297702501659170217, 8902153321767092035],
                "parent_block_hash": None,
                "token_ids": [575, 1465, 2, 70_000, 5, 6, 7, 8],
                "block_size": 4,
                "lora_id": None,
                "medium": "GPU",
                "lora_name": None,
                "extra_keys": [["tenantA"], None],
                "group_idx": 0,
                "kv_cache_spec_kind": "full_attention",
            },
            {
                "type": "BlockStored",
                "block_hashes": [1],
                "parent_block_hash": 8902153321767092035,
                "token_ids": [1, 2, 3, 4],
                "block_size": 4,
                "lora_id": 2,
                "medium": "STORAGE",
                "lora_name": "ad1",
                "extra_keys": [["ad1"]],
                "group_idx": 0,
                "locality": "REMOTE",
                "session_id": "s1",
            },
            {"type": "BlockRemoved", "block_hashes": [2**64 - 1], "medium": "GPU", "group_idx": 0},
            {"type": "AllBlocksCleared"},
        ],
    },
    {"ts": 1.0, "dp_rank": None, "events": []},
]


def frames_by_vllm() -> list[str]:
    """vLLM's own encoder over its own event types."""
    events = importlib.import_module("vllm.distributed.kv_events")
    encoder = importlib.import_module("msgspec").msgpack.Encoder()
    out = []
    for batch in BATCHES:
        made = []
        for event in batch["events"]:
            fields = {name: value for name, value in event.items() if name != "type"}
            if fields.get("extra_keys"):
                fields["extra_keys"] = [k and tuple(k) for k in fields["extra_keys"]]
            made.append(getattr(events, event["type"])(**fields))
        whole = events.KVEventBatch(
            ts=batch["ts"], events=made, data_parallel_rank=batch["dp_rank"]
        )
        out.append(encoder.encode(whole).hex())
    return out


def main() -> None:
    real = importlib.util.find_spec("vllm") is not None
    vectors = cases()
    for case in vectors:
        case["digests"] = by_vllm(case) if real else straightforward(case)
        case["external"] = [int(digest[-16:], 16) for digest in case["digests"]]
    made_by = "vLLM's own code" if real else "the independent implementation in make_golden.py"
    if real:
        made_by = f"vLLM {importlib.import_module('vllm').__version__}, its own code"
        frames = {"made_by": made_by, "batches": BATCHES, "payloads": frames_by_vllm()}
        (HERE / "event_frames.json").write_text(json.dumps(frames, indent=1) + "\n")
    out = {"made_by": made_by, "vectors": vectors}
    (HERE / "block_hashes.json").write_text(json.dumps(out) + "\n")


if __name__ == "__main__":
    main()
