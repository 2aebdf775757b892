"""Texts that vLLM 0.32 rendered of conversations; ``make_chat_texts.py`` says how they were made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.conversation import read_conversation
from gateway.rendering import ChatTemplate

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "chat_texts.json").read_text())
SPECIAL = {"bos_token": "<|bos|>", "eos_token": "<|end|>"}

NOT_SURE = ("developer", "x-anthropic")
"""In bodies that vLLM renders and we leave to the estimate."""


def rendered(template: ChatTemplate, body: dict[str, Any]) -> str | None:
    conversation = read_conversation(json.dumps(body).encode())
    return None if conversation is None else template.render(conversation)


def test_the_texts_were_made_by_vllm_itself() -> None:
    assert GOLDEN["made_by"].startswith("vLLM 0.32")


@pytest.mark.parametrize("name", GOLDEN["templates"])
def test_a_conversation_is_rendered_as_vllm_renders_it_or_not_at_all(name: str) -> None:
    template = ChatTemplate(
        GOLDEN["templates"][name], SPECIAL, lambda form: form.replace("%%", "%")
    )
    same = 0
    for body, want in zip(GOLDEN["bodies"], GOLDEN["texts"][name], strict=True):
        got = rendered(template, body)
        told = json.dumps(body)
        if any(word in told for word in NOT_SURE):
            assert got is None, told
        else:
            assert got == want, told
            same += want is not None
    assert same >= 4
