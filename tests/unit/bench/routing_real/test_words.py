from __future__ import annotations

import json

from tokenizers import Tokenizer

from bench.routing_real.words import ROLES, chat_template, tokenizer_files
from gateway.conversation import Conversation, Message
from gateway.rendering import ChatTemplate
from headrace.simulator.http.text import Generated, chat_prompt, encode
from headrace.simulator.trace import TraceRequest
from headrace.twin.prompts import PromptMaker

PROMPT = PromptMaker(3).text(TraceRequest(0.0, 400, 1, (5, 6), 16), 0)
ANSWER = Generated.after(encode(PROMPT), 0, 0).text(300)


def rendered(turns: list[tuple[str, bytes]]) -> str:
    template = ChatTemplate(chat_template(), {}, lambda _: "")
    messages = tuple(Message(role, (text.decode(),), {}) for role, text in turns)
    arguments = {"add_generation_prompt": True}
    text = template.render(
        Conversation(messages, None, arguments, continue_final=False, special_tokens=False)
    )
    assert text is not None
    return text


def test_a_rendered_conversation_has_the_very_tokens_that_the_engine_makes_of_it() -> None:
    turns = [("system", PROMPT), ("user", PROMPT[:80]), ("assistant", ANSWER), ("user", PROMPT)]
    tokenizer = Tokenizer.from_str(tokenizer_files()["tokenizer.json"])
    found = tokenizer.encode(rendered(turns), add_special_tokens=False).ids
    assert found == encode(chat_prompt(turns)).tolist()


def test_the_template_opens_the_assistants_turn_only_when_asked() -> None:
    template = ChatTemplate(chat_template(), {}, lambda _: "")
    messages = (Message("user", ("hi",), {}),)
    closed = Conversation(messages, None, {}, continue_final=False, special_tokens=False)
    assert template.render(closed) == "<|user|>hi"


def test_the_folder_has_what_a_reader_of_model_folders_looks_for() -> None:
    files = tokenizer_files()
    assert set(files) == {"tokenizer.json", "tokenizer_config.json", "config.json"}
    assert json.loads(files["tokenizer_config.json"])["chat_template"] == chat_template()
    assert all(f"'{role}'" in chat_template() for role in ROLES)
