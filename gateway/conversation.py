"""Bodies as engines read them before tokenising: conversations and prompts. Pure.

A body whose prompt depends on what we cannot see or do not reproduce reads as None: then nobody
claims to know its tokens. Extra members that no chat template is given are skipped, as vLLM does.

Source, throughout: vLLM 0.32.0, ``renderers/chat_utils.py`` (``_parse_chat_message_content``),
``renderers/params.py`` and ``entrypoints/openai/{chat_completion,completion}/protocol.py``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

_ABSENT: Final = Raw()

_OWN_ARGUMENTS: Final = frozenset(
    {
        *("messages", "conversation", "conversations", "tools", "chat_template", "tokenize"),
        *("padding", "truncation", "max_length", "return_tensors", "return_dict"),
        *("return_assistant_tokens_mask", "tokenizer_kwargs"),
    }
)
"""Names in ``chat_template_kwargs`` that would reach what renders the template, not the template.

Source: transformers 5.19, parameters of ``apply_chat_template``.
"""

_REWRITTEN_SYSTEM: Final = "x-anthropic-billing-header"
"""vLLM removes a line that starts so from system messages; rare enough not to be reproduced."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message: its texts in order, and what else a template may see of it."""

    role: str
    texts: tuple[str, ...]
    extra: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a chat template is given.

    Attributes:
        messages: Oldest first.
        tools: As the engine hands them to templates, or None.
        arguments: The template's other variables.
        continue_final: Whether the last message is left open, to be continued.
        special_tokens: Whether the tokenizer adds its own special tokens around the text.

    """

    messages: tuple[Message, ...]
    tools: Sequence[Mapping[str, Any]] | None
    arguments: Mapping[str, Any]
    continue_final: bool
    special_tokens: bool


@dataclass(frozen=True, slots=True)
class Prompts:
    """The prompts of a completion: texts, or token ids. At least one, all of one kind."""

    texts: tuple[str, ...] = ()
    ids: tuple[list[int], ...] = ()
    special_tokens: bool = True


class _Salted(msgspec.Struct):
    cache_salt: str | None = None


class _Part(msgspec.Struct, forbid_unknown_fields=True):
    type: str
    text: str
    cache_control: Raw = _ABSENT


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part | str] | None = None
    tool_calls: Raw = _ABSENT
    tool_call_id: str | UnsetType | None = UNSET
    reasoning: str | None = None
    reasoning_content: str | None = None
    name: str | None = None
    task: str | None = None


class _Common(msgspec.Struct, kw_only=True):
    truncate_prompt_tokens: int | None = None
    kv_transfer_params: dict[str, Raw] | None = None
    prompt_embeds: Raw = _ABSENT


class _Chat(_Common, kw_only=True):
    messages: list[_Message]
    tools: Raw = _ABSENT
    documents: Raw = _ABSENT
    chat_template: str | None = None
    chat_template_kwargs: Raw = _ABSENT
    reasoning_effort: str | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: bool = False


class _Completion(_Common, kw_only=True):
    prompt: str | list[str | int | list[int]]
    suffix: str | None = None
    add_special_tokens: bool = True


_SALTED: Final = msgspec.json.Decoder(_Salted)
_CHAT: Final = msgspec.json.Decoder(_Chat)
_COMPLETION: Final = msgspec.json.Decoder(_Completion)


def cache_salt(body: bytes) -> str | None:
    """Return the client's cache salt. ``body`` was read once already, so it is well formed."""
    return _SALTED.decode(body).cache_salt


def read_conversation(body: bytes) -> Conversation | None:
    """Return what a chat template is given for ``body``, or None where that is not sure."""
    try:
        chat = _CHAT.decode(body)
        tools = _tools(_json(chat.tools))
        arguments = _arguments(chat)
        messages = [_message(message) for message in chat.messages]
    except (msgspec.MsgspecError, ValueError, RecursionError, _UnsureError):
        return None
    if not messages or _untellable(chat) or chat.chat_template is not None:
        return None
    return Conversation(
        messages=tuple(messages),
        tools=tools,
        arguments=arguments,
        continue_final=chat.continue_final_message,
        special_tokens=chat.add_special_tokens,
    )


def read_prompts(body: bytes) -> Prompts | None:
    """Return the prompts of a completion, or None where they are not all of it."""
    try:
        completion = _COMPLETION.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    if _untellable(completion) or completion.suffix is not None:
        return None
    value = completion.prompt
    special = completion.add_special_tokens
    if isinstance(value, str):
        return Prompts(texts=(value,), special_tokens=special)
    texts = tuple(item for item in value if isinstance(item, str))
    lists = tuple(item for item in value if isinstance(item, list))
    numbers = [item for item in value if isinstance(item, int)]
    for found in (texts, lists, numbers):
        if found and len(found) != len(value):
            return None
    if not value:
        return None
    return Prompts(
        texts=texts, ids=lists or ((numbers,) if numbers else ()), special_tokens=special
    )


def _untellable(fields: _Common) -> bool:
    """Whether the engine cuts the prompt, or takes its tokens from elsewhere."""
    return (
        fields.truncate_prompt_tokens is not None
        or len(fields.prompt_embeds) > 0
        or "prompt_token_ids" in (fields.kv_transfer_params or ())
    )


class _UnsureError(Exception):
    """The engine does something here that we do not reproduce."""


def _json(raw: Raw) -> Any:
    """Decode as the engine's server does: numbers keep their form when a template prints them."""
    return json.loads(bytes(raw)) if len(raw) else None


def _message(message: _Message) -> Message:
    texts = _texts(message.content)
    role = message.role
    if role == "developer":  # its tools, and whether the template knows the role, decide
        raise _UnsureError
    if role == "system" and any(text.startswith(_REWRITTEN_SYSTEM) for text in texts):
        raise _UnsureError
    extra: dict[str, Any] = {}
    if role == "assistant":
        calls = _tool_calls(_json(message.tool_calls))
        if calls:
            extra["tool_calls"] = calls
        reasoning = message.reasoning_content if message.reasoning is None else message.reasoning
        if reasoning is not None:
            extra["reasoning"] = extra["reasoning_content"] = reasoning
    elif role == "tool" and message.tool_call_id is not UNSET:
        extra["tool_call_id"] = message.tool_call_id
    for name in ("name", "task"):
        value = getattr(message, name)
        if value is not None:
            extra[name] = value
    return Message(role, texts, extra)


def _texts(content: str | list[_Part | str] | None) -> tuple[str, ...]:
    if content is None:
        return ()
    if isinstance(content, str):
        return (content,)
    texts: list[str] = []
    for part in content:
        if isinstance(part, str):
            texts.append(part)
        elif part.type == "text":
            texts.append(part.text)
        else:
            raise _UnsureError
    return tuple(texts)


def _tool_calls(calls: Any) -> list[dict[str, Any]]:
    """Return calls as templates see them: in the order of the API's schema, arguments decoded."""
    if calls is None:
        return []
    made: list[dict[str, Any]] = []
    for call in calls if isinstance(calls, list) else [calls]:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or call.get("type", "function") != "function":
            raise _UnsureError
        if not {"id", "type"} <= call.keys() or not {"name", "arguments"} <= function.keys():
            raise _UnsureError  # which of the API's types it is taken for would decide its order
        shown = {**_first(function, "arguments", "name"), **function}
        shown["arguments"] = _call_arguments(function["arguments"])
        made.append({**_first(call, "id", "function", "type"), **call, "function": shown})
    return made


def _first(given: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: given[name] for name in names}


def _call_arguments(given: Any) -> dict[str, Any]:
    """Return a call's arguments as an object; what is none becomes an empty one."""
    if isinstance(given, str) and given:
        try:
            given = json.loads(given)
        except ValueError:
            given = None
    return given if isinstance(given, dict) else {}


def _tools(tools: Any) -> list[dict[str, Any]] | None:
    """Return tools as the engine hands them to templates: its own fields, in its own order.

    Source: vLLM 0.32.0, ``ChatCompletionToolsParam`` and ``FunctionDefinition``: description and
    parameters are there even when null, strict and defer_loading only when set.
    """
    if tools is None:
        return None
    if not isinstance(tools, list) or not tools:
        raise _UnsureError
    made: list[dict[str, Any]] = []
    for tool in tools:
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or tool.get("type", "function") != "function":
            raise _UnsureError
        if tool.get("defer_loading") is not None or function.get("defer_loading") is not None:
            raise _UnsureError
        shown = {name: function.get(name) for name in ("name", "description", "parameters")}
        if function.get("strict") is not None:
            shown["strict"] = function["strict"]
        made.append({"type": "function", "function": shown})
    return made


def _arguments(chat: _Chat) -> dict[str, Any]:
    """Return the template's variables: the request's own fields win over ``chat_template_kwargs``.

    Null and "auto" count as not given.
    """
    given = _json(chat.chat_template_kwargs)
    arguments: dict[str, Any] = {}
    if given is not None:
        if not isinstance(given, dict) or _OWN_ARGUMENTS & given.keys():
            raise _UnsureError
        arguments.update(given)
    own: dict[str, Any] = {
        "add_generation_prompt": chat.add_generation_prompt,
        "continue_final_message": chat.continue_final_message,
        "documents": _json(chat.documents),
        "reasoning_effort": chat.reasoning_effort,
    }
    if chat.reasoning_effort is not None and "enable_thinking" not in arguments:
        own["enable_thinking"] = chat.reasoning_effort != "none"
    arguments.update((name, value) for name, value in own.items() if _given(value))
    if chat.continue_final_message and chat.add_generation_prompt:
        raise _UnsureError  # the engine refuses it
    return {name: value for name, value in arguments.items() if _given(value)}


def _given(value: object) -> bool:
    return value is not None and value != "auto"
