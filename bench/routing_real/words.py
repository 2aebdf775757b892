"""The simulated engine's tokens as a tokenizer's files, for rivals that tokenise. Pure.

Only the text of this benchmark: words of a space and three letters, and the chat template's
headers. vllm-router matches what it reads in KV events by token ids, so they must be the same.
"""

from __future__ import annotations

import itertools
import json
import string
from collections.abc import Mapping
from typing import Final

from headrace.simulator.http.text import TOKEN_BYTES, encode, pad

ROLES: Final = ("system", "user", "assistant")


def tokenizer_files() -> dict[str, str]:
    """Return the contents of a model's folder by file name."""
    return {
        "tokenizer.json": json.dumps(_tokenizer()),
        "tokenizer_config.json": json.dumps(
            {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": chat_template()}
        ),
        "config.json": json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}),
    }


def chat_template() -> str:
    """Return the engine's chat template in Jinja; its headers are padded to whole tokens."""
    heads = [f"{{%- {_condition(role)} -%}}{_header(role)}" for role in ROLES]
    return (
        f"{{%- for message in messages -%}}{''.join(heads)}{{%- endif -%}}"
        "{{ message.content }}{%- endfor -%}"
        f"{{%- if add_generation_prompt -%}}{_header('assistant')}{{%- endif -%}}"
    )


def _condition(role: str) -> str:
    return f"{'if' if role == ROLES[0] else 'elif'} message.role == '{role}'"


def _header(role: str) -> str:
    return pad(f"<|{role}|>".encode()).decode()


def _tokenizer() -> Mapping[str, object]:
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": f"[\\s\\S]{{{TOKEN_BYTES}}}"},
            "behavior": "Isolated",
            "invert": False,
        },
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": _vocabulary(), "unk_token": "[UNK]"},
    }


def _vocabulary() -> dict[str, int]:
    words = [" " + "".join(each) for each in itertools.product(string.ascii_lowercase, repeat=3)]
    for role in ROLES:
        header = _header(role)
        words += (header[at : at + TOKEN_BYTES] for at in range(0, len(header), TOKEN_BYTES))
    return {"[UNK]": 0, **{word: int(encode(word.encode())[0]) for word in words}}
