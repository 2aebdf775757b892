"""Makes a tiny random Llama with a tokenizer of its own. Run by the Python of vLLM's environment.

    .cache/vllm/bin/python tests/e2e/vllm/make_model.py OUT [--size tiny|small] [--seed 0]

The weights are random, seeded, and wide (``initializer_range`` 0.08) so that answers vary with the
prompt: with transformers' default of 0.02 such a model repeats a few tokens whatever it is asked.
The tokenizer is a byte-level BPE of 2,048 entries trained on this repository's own words, so any
text can be encoded and nothing is downloaded.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

VOCAB = 2048
SIZES = {
    # hidden, layers, heads, kv heads, intermediate
    "tiny": (256, 4, 4, 2, 768),
    "small": (512, 8, 8, 4, 1536),
}
CHAT_TEMPLATE = (
    "{% if tools %}<|tool|>\n{{ tools | tojson }}<|end|>\n{% endif %}"
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
SPECIAL = ["<|bos|>", "<|end|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"]


def corpus() -> list[str]:
    """Return the lines to train the tokenizer on: our own source and documents, in name order."""
    root = Path(__file__).resolve().parents[3]
    files = sorted([*root.glob("headrace/core/*.py"), *root.glob("router/**/*.py"), Path(__file__)])
    return [line for file in files for line in file.read_text("utf-8").splitlines()]


def make_tokenizer(out: Path) -> None:
    """Train a byte-level BPE and write it with its chat template."""
    hf: Any = importlib.import_module("tokenizers")
    tokenizer = hf.Tokenizer(hf.models.BPE())
    tokenizer.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = hf.decoders.ByteLevel()
    trainer = hf.trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=SPECIAL,
        initial_alphabet=hf.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.save(str(out / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|bos|>",
        "eos_token": "<|end|>",
        "pad_token": "<|pad|>",
        "model_max_length": 8192,
        "clean_up_tokenization_spaces": False,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2))
    (out / "chat_template.jinja").write_text(CHAT_TEMPLATE)


def make_model(out: Path, size: str, seed: int) -> float:
    """Write the weights; return their number in millions."""
    torch: Any = importlib.import_module("torch")
    transformers: Any = importlib.import_module("transformers")
    hidden, layers, heads, kv_heads, intermediate = SIZES[size]
    torch.manual_seed(seed)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=hidden,
            intermediate_size=intermediate,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            max_position_embeddings=8192,
            initializer_range=0.08,
            tie_word_embeddings=False,
            bos_token_id=SPECIAL.index("<|bos|>"),
            eos_token_id=SPECIAL.index("<|end|>"),
            pad_token_id=SPECIAL.index("<|pad|>"),
        )
    ).to(torch.bfloat16)
    model.save_pretrained(out)
    return float(sum(p.numel() for p in model.parameters()) / 1e6)


def main() -> None:
    """Make the model beside its final place and move it there, so that a folder is whole or absent."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", choices=sorted(SIZES), default="small")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    stamp = hashlib.sha256(f"{args.size} {args.seed}".encode() + Path(__file__).read_bytes())
    made_by = args.out / "made-by.txt"
    if made_by.exists() and made_by.read_text() == stamp.hexdigest():
        return
    part = args.out.with_name(args.out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    make_tokenizer(part)
    millions = make_model(part, args.size, args.seed)
    (part / made_by.name).write_text(stamp.hexdigest())
    shutil.rmtree(args.out, ignore_errors=True)
    part.rename(args.out)
    sys.stdout.write(f"{args.out}: {millions:.1f} M parameters\n")


if __name__ == "__main__":
    main()
