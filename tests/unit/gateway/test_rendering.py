from __future__ import annotations

import json

import jinja2
import pytest

from gateway.conversation import read_conversation
from gateway.rendering import ChatTemplate


def render(source: str, **fields: object) -> str | None:
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    conversation = read_conversation(json.dumps({"messages": messages, **fields}).encode())
    assert conversation is not None
    return ChatTemplate(source, {"bos_token": "<s>"}, lambda form: f"<{form}>").render(conversation)


def test_special_tokens_and_the_day_are_there_for_templates() -> None:
    assert render("{{ bos_token }}{{ strftime_now('%d %b') }}{{ eos_token }}") == "<s><%d %b>"


def test_a_request_may_overrule_a_special_token() -> None:
    assert render("{{ bos_token }}", chat_template_kwargs={"bos_token": "<t>"}) == "<t>"


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('no') }}",
        "{{ messages[7].content }}",
        "{{ 1 / 0 }}",
        "{{ messages + 'x' }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ range(99999999) | list }}",
    ],
)
def test_a_template_that_fails_or_reaches_out_of_its_sandbox_says_nothing(source: str) -> None:
    assert render(source) is None


def test_a_template_that_does_not_compile_is_an_error() -> None:
    with pytest.raises(jinja2.TemplateError):
        ChatTemplate("{% for %}", {}, str)


def test_a_last_message_that_the_template_swallows_cannot_be_continued() -> None:
    open_end = {"continue_final_message": True, "add_generation_prompt": False}
    whole = "{% for m in messages %}{{ m.content }}.{% endfor %}"
    assert render(whole, **open_end) == "q.a"
    assert render("{{ messages[0].content }}", **open_end) is None
    assert render("{{ messages | length }}", **open_end) is None
