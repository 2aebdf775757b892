"""Makes a random PEFT adapter for a Llama. Run by the Python of vLLM's environment.

    .cache/vllm/bin/python tests/e2e/lora/make_adapter.py OUT MODEL --seed 1 [--rank 8]

Both matrices are random and as large as the model's own weights, so that what the adapter answers
has little to do with what the model answers.
"""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path
from typing import Any

SCALE = 0.3


def weights(config: dict[str, Any], rank: int, seed: int) -> dict[str, Any]:
    """Return the tensors for the query and value projections of every layer."""
    torch: Any = importlib.import_module("torch")
    torch.manual_seed(seed)
    hidden = config["hidden_size"]
    head = config.get("head_dim") or hidden // config["num_attention_heads"]
    widths = {
        "q_proj": head * config["num_attention_heads"],
        "v_proj": head * config["num_key_value_heads"],
    }
    found = {}
    for layer in range(config["num_hidden_layers"]):
        for name, width in widths.items():
            at = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            down = torch.randn(rank, hidden) * SCALE
            up = torch.randn(width, rank) * SCALE
            found[f"{at}.lora_A.weight"] = down.to(torch.bfloat16)
            found[f"{at}.lora_B.weight"] = up.to(torch.bfloat16)
    return found


def main() -> None:
    """Write the adapter; files of the same names are replaced."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    config = json.loads((args.model / "config.json").read_text())
    args.out.mkdir(parents=True, exist_ok=True)
    save: Any = importlib.import_module("safetensors.torch")
    save.save_file(weights(config, args.rank, args.seed), args.out / "adapter_model.safetensors")
    said = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(args.model),
        "r": args.rank,
        "lora_alpha": 2 * args.rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": ["q_proj", "v_proj"],
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    (args.out / "adapter_config.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main()
