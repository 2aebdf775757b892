"""LoRA adapters in PEFT's form, made of seeded noise; needs neither torch nor PEFT."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np


def adapter_files(model: Path, *, rank: int, seed: int, scale: float = 0.5) -> dict[str, bytes]:
    """Return the files of an adapter of a Llama, large enough to change what it says.

    Args:
        model: Folder of the base model.
        rank: Of the matrices.
        seed: Of the noise.
        scale: Its standard deviation.

    """
    shape = json.loads((model / "config.json").read_text())
    hidden, heads = shape["hidden_size"], shape["num_attention_heads"]
    head = shape.get("head_dim") or hidden // heads
    outputs = {"q_proj": head * heads, "v_proj": head * shape["num_key_value_heads"]}
    rng = np.random.default_rng(seed)
    tensors = {}
    for layer in range(shape["num_hidden_layers"]):
        for name, output in outputs.items():
            at = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            for matrix, dims in (("lora_A", (rank, hidden)), ("lora_B", (output, rank))):
                noise = rng.standard_normal(dims, dtype=np.float32) * np.float32(scale)
                tensors[f"{at}.{matrix}.weight"] = noise
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(model),
        "r": rank,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(outputs),
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    return {
        "adapter_config.json": json.dumps(config).encode(),
        "adapter_model.safetensors": _safetensors(tensors),
    }


def write_files(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write files into a folder, in place of what is there; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for name, body in files.items():
        (folder / name).write_bytes(body)
    return folder


def _safetensors(tensors: Mapping[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]) -> bytes:
    """Return the format: length of a JSON header, the header, the tensors one after the other."""
    header, at = {}, 0
    for name, tensor in tensors.items():
        span = [at, at + tensor.nbytes]
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": span}
        at = span[1]
    told = json.dumps(header).encode()
    told += b" " * (-len(told) % 8)
    return len(told).to_bytes(8, "little") + told + b"".join(t.tobytes() for t in tensors.values())
