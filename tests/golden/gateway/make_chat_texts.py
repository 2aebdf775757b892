"""Write chat_texts.json: what vLLM's own code renders of conversations, template by template.

    .cache/vllm/bin/python -W ignore tests/golden/gateway/make_chat_texts.py

The templates are ours. Together they go through what templates do: loops over messages and over
parts of a content, macros, tools, calls, thinking, dates, refusals, and a dump of all they are given.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MODEL = HERE.parents[2] / ".cache/models/small"

TEMPLATES = {
    "turns": (
        "{%- if tools %}\n<|start|>tools{% for tool in tools %}\n{{ tool | tojson }}{% endfor %}<|end|>\n"
        "{%- endif %}\n{%- for message in messages %}\n"
        "{{- '<|start|>' + message.role + '\\n' }}\n"
        "{%- if message.reasoning_content %}{{- '<think>' + message.reasoning_content + '</think>' }}"
        "{%- endif %}{{- message.content }}\n"
        "{%- for call in message.tool_calls %}{%- if call.function is defined %}"
        "{%- set call = call.function %}{%- endif %}"
        '{{- \'{"name": "\' + call.name + \'", "arguments": \' }}{{- call.arguments | tojson }}'
        "{{- '}' }}{%- endfor %}{{- '<|end|>\\n' }}{%- endfor %}\n"
        "{%- if add_generation_prompt %}{{- '<|start|>assistant\\n' }}"
        "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think></think>' }}"
        "{%- endif %}{%- endif %}"
    ),
    "parts": (
        "{{ bos_token }}{% for message in messages %}<|start|>{{ message['role'] }}\n"
        "{% if message['content'] is string %}{{ message['content'] | trim }}{% else %}"
        "{% for part in message['content'] %}{% if part['type'] == 'text' %}({{ part['text'] }})"
        "{% endif %}{% endfor %}{% endif %}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
    ),
    "macro": (
        "{% macro show(it) %}{% if it is string %}{{ it }}{% else %}{% for p in it %}[{{ p.text }}]"
        "{% endfor %}{% endif %}{% endmacro %}{% set rest = messages %}"
        "{% for m in rest[1:] %}<|start|>{{ m.role }}:{{ show(m.content) }}<|end|>"
        "{% generation %}g{% endgeneration %}{% if loop.index > 2 %}{% break %}{% endif %}{% endfor %}"
    ),
    "odd loop": (
        "{% if false %}{% for i, m in messages %}{% endfor %}{% endif %}"
        "{% for m in messages %}{% for p in m.content %}{{ p }};{% endfor %}{% endfor %}"
    ),
    "content variable": (
        "{% set content = messages[-1].content %}{% for part in content %}<{{ part.text or part }}>"
        "{% endfor %}"
    ),
    "dump": (
        "{{ messages | tojson }}|{{ tools | tojson(indent=2) }}|{{ documents }}|"
        "{{ reasoning_effort }}|{{ enable_thinking }}|{{ x }}|{{ add_generation_prompt }}|"
        "{{ continue_final_message }}|{{ bos_token }}|{{ pad_token }}|{{ strftime_now('%%') }}"
    ),
    "strict": (
        "{% for m in messages %}{% if m.role not in ['user', 'assistant'] %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}\n  <|start|>{{ m.content }}\n"
        "    {% if not loop.last %}<|end|>{% endif %}\n{% endfor %}\n"
    ),
}
"""Chat templates; bos_token is <|bos|>, eos_token <|end|>, and there is no pad_token."""

PARAMETERS = {
    "type": "object",
    "properties": {
        "b": {"type": "number", "minimum": 1.0, "maximum": 123456789012345678901234567890},
        "a": {"type": "string", "enum": ["x", "\u00e9<b>"]},
    },
}


def tool(**more: Any) -> dict[str, Any]:
    function = {"parameters": PARAMETERS, "name": "f", "description": "d\u00e9 <b>", **more}
    return {"function": function, "type": "function"}


def call(arguments: Any, **more: Any) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {"name": "f", "arguments": arguments},
        "id": "c1",
        **more,
    }


def text(words: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **more}


def user(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **more}


def assistant(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def system(content: Any) -> dict[str, Any]:
    return {"role": "system", "content": content}


def result(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "tool", "content": content, **more}


OPEN = {"continue_final_message": True, "add_generation_prompt": False}
TOOLS = {"tools": [tool()], "tool_choice": "none"}

BODIES: list[dict[str, Any]] = [
    {"messages": [user("hi")]},
    {"messages": [system("Be brief."), user("  a <|end|> b\n"), assistant("yes "), user("so?")]},
    {
        "messages": [
            system([text("a"), text("b", cache_control={"type": "x"})]),
            user([text(" x "), "y"]),
        ]
    },
    {
        "messages": [
            user("q"),
            assistant(None, tool_calls=[call('{"b": 1.50, "a": "\u00e9"}'), call("", index=0)]),
            result("42", tool_call_id="c1"),
            result([text("a"), text("b")], tool_call_id="c1"),
        ],
        **TOOLS,
    },
    {
        "messages": [user("q"), assistant("t", tool_calls=[])],
        "tools": [tool(strict=True), {"type": "function", "function": {"name": "g"}}],
        "tool_choice": "none",
    },
    {"messages": [user("q"), assistant(None, tool_calls=[call("[1]"), call("{broken")])]},
    {"messages": [user("q"), assistant("partial answer  ")], **OPEN},
    {"messages": [user("q"), assistant([text("one"), text("two")])], **OPEN},
    {"messages": [user("q"), assistant("")], **OPEN},
    {"messages": [user("q")], "add_generation_prompt": False, "add_special_tokens": True},
    {
        "messages": [user("q")],
        "chat_template_kwargs": {
            "enable_thinking": False,
            "x": 1.0,
            "add_generation_prompt": False,
        },
    },
    {
        "messages": [user("q")],
        "reasoning_effort": "none",
        "documents": [{"title": "t", "text": "x"}],
    },
    {
        "messages": [user("q")],
        "reasoning_effort": "high",
        "chat_template_kwargs": {"x": "auto", "reasoning_effort": "low", "documents": None},
    },
    {
        "messages": [
            user("q", name="bob"),
            assistant("r", reasoning="because", refusal=None, annotations=[], tool_calls=None),
            user("s", id="7", foo={"a": 1}),
        ]
    },
    {"messages": [user("q"), assistant("r", reasoning_content="because"), user("s")]},
    {
        "messages": [
            {"role": "critic", "content": "z", "name": "n", "tool_call_id": "u"},
            user("a\tb"),
        ]
    },
    {"messages": [user("\u4e2d\u6587 \u00e9 \U0001f600 it's I'LL 12345")]},
    {"messages": [user(""), user("x")]},
    {"messages": [assistant("only"), result("no id")]},
    {"messages": [{"role": "developer", "content": "d"}, user("x")]},
    {"messages": [system("x-anthropic-billing-header: 1\nrest"), user("x")]},
    {"messages": [user([{"type": "image_url", "image_url": {"url": "no-such:thing"}}])]},
    {"messages": [user([{"type": "input_text", "text": "q"}])]},
    {"messages": [user("q")], "chat_template": "{{ messages }}"},
    {"messages": []},
    {"messages": [user("q")], **TOOLS, "tools": []},
]


def rendered(folder: str, body: dict[str, Any]) -> str | None:
    """Return what the engine would tokenise, or None where it refuses."""
    protocol: Any = importlib.import_module("vllm.entrypoints.openai.chat_completion.protocol")
    hf: Any = importlib.import_module("vllm.renderers.hf")
    chat: Any = importlib.import_module("vllm.renderers.chat_utils")
    params: Any = importlib.import_module("vllm.renderers.params")
    config = importlib.import_module("vllm.config").ModelConfig(model=folder, dtype="float32")
    tokenizer = importlib.import_module("vllm.tokenizers.registry").cached_tokenizer_from_config(
        config
    )
    try:
        request = protocol.ChatCompletionRequest.model_validate(body)
        if request.chat_template is not None:  # needs --trust-request-chat-template
            return None
        tools = None if request.tools is None else [each.model_dump() for each in request.tools]
        given = request.build_chat_params(None, "auto").with_defaults(
            params.merge_kwargs(None, {"tools": tools, "tokenize": False})
        )
        form = hf.resolve_chat_template_content_format(
            chat_template=None,
            tools=given.chat_template_kwargs.get("tools"),
            given_format="auto",
            tokenizer=tokenizer,
            model_config=config,
        )
        messages, *_ = chat.parse_chat_messages(list(request.messages), config, content_format=form)
        text: str = hf.safe_apply_chat_template(
            config, tokenizer, messages, **given.get_apply_chat_template_kwargs()
        )
    except Exception as error:  # noqa: BLE001 -- whatever it is, an engine answers 400
        sys.stderr.write(f"{type(error).__name__}: {str(error)[:120]}\n")
        return None
    return text


def make_folder(home: Path, template: str) -> str:
    """Return a folder that vLLM reads a model's tokenizer and template from."""
    home.mkdir()
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(MODEL / name, home / name)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|bos|>",
        "eos_token": "<|end|>",
        "pad_token": None,
    }
    (home / "tokenizer_config.json").write_text(json.dumps(config))
    (home / "chat_template.jinja").write_text(template)
    return str(home)


def main() -> None:
    os.environ.update({"VLLM_PLUGINS": "", "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR"})
    texts: dict[str, list[str | None]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for at, (name, template) in enumerate(TEMPLATES.items()):
            folder = make_folder(Path(temporary) / str(at), template)
            texts[name] = [rendered(folder, {"model": "m", **body}) for body in BODIES]
    made_by = f"vLLM {importlib.import_module('vllm').__version__}, its own code"
    out = {"made_by": made_by, "templates": TEMPLATES, "bodies": BODIES, "texts": texts}
    (HERE / "chat_texts.json").write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
