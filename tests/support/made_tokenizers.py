"""Tokenizers and model folders made on the spot: nothing is downloaded."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

START, END, BOS = "<|start|>", "<|end|>", "<|bos|>"
SPECIAL = [START, END, BOS]

TEMPLATE = (
    "{% if tools %}<|start|>tools{{ tools | tojson }}<|end|>{% endif %}"
    "{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)

LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CORPUS = [
    "The headrace brings the water to the turbines, and the tailrace takes it away again.",
    "A request isn't a request until it's been admitted; 12,345 of them were, in 2026.",
    "def serve(self, kind, headers, sink):\n    return await self._dispatcher.dispatch(request)",
    "  one of the two  halves of the text ends here,\n\n and the other one starts there\n",
    "na\u00efve caf\u00e9 \u4e2d\u6587 \U0001f600 user assistant system tools",
]

KINDS = ("bytes", "llama 3", "llama 2", "first")
"""Byte-level with GPT-2's words and with Llama 3's; two in the manner of sentencepiece, of which
the second knows where a text begins."""


@cache
def make_json(kind: str, bos: bool = False) -> str:
    """Return the ``tokenizer.json`` of one of ``KINDS``; ``bos`` has it put <|bos|> first."""
    bytes_first = [f"<0x{byte:02X}>" for byte in range(256)]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if kind in ("bytes", "llama 3"):
        tokenizer = Tokenizer(models.BPE())
        words: Any = pre_tokenizers.ByteLevel(add_prefix_space=False)
        if kind == "llama 3":
            split = pre_tokenizers.Split(Regex(LLAMA_3), behavior="isolated")
            level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
            words = pre_tokenizers.Sequence([split, level])
        tokenizer.pre_tokenizer = words
        tokenizer.decoder = decoders.ByteLevel()
        special = [*SPECIAL]
    else:
        tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
        special, alphabet = ["<unk>", *SPECIAL, *bytes_first], []
        if kind == "llama 2":
            tokenizer.normalizer = normalizers.Sequence(
                [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
            )
        else:
            tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        min_frequency=1,
        special_tokens=special,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    if bos:
        bos_id = tokenizer.token_to_id(BOS)
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", special_tokens=[(BOS, bos_id)]
        )
    return str(tokenizer.to_str())


def make_tokenizer(kind: str, *added: AddedToken) -> Tokenizer:
    """Return a tokenizer of its own, with further tokens added."""
    tokenizer: Tokenizer = Tokenizer.from_str(make_json(kind))
    tokenizer.add_tokens(list(added))
    return tokenizer


def make_folder(
    folder: Path,
    kind: str = "bytes",
    *,
    template: str | None = TEMPLATE,
    bos: bool = False,
    **config: Any,
) -> Path:
    """Write a model's tokenizer files; ``config`` goes into ``tokenizer_config.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(make_json(kind, bos))
    values = {"bos_token": BOS, "eos_token": END, "pad_token": None, **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(values))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder
