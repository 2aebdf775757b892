"""The bodies that clients send, as far as the gateway must understand them. Pure.

Only what routing, limits and metering need is decoded; every other field goes to the engine as it
came. Bounds on sampling parameters are those of OpenAI's reference and of vLLM 0.32, so that a bad
number is refused here, at once, and names its field.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Raw

from gateway.prompt import Prompt, chat_prompt, ids_prompt, text_prompt
from headrace.core.errors import InvalidRequest
from headrace.core.ids import ModelName

MAX_NAME_CHARS: Final = 256

Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARS)]
Key = Annotated[str, Meta(max_length=MAX_NAME_CHARS)]
Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Penalty = Annotated[float, Meta(ge=-2.0, le=2.0)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]


_ABSENT: Final = Raw()
"""Of a member kept as it came; ``Raw | None`` would mean null and nothing else to msgspec."""


class Kind(StrEnum):
    """What a request asks an engine for; each has one path."""

    CHAT = "chat"
    COMPLETION = "completion"
    EMBEDDING = "embedding"
    TOKENIZE = "tokenize"


class Part(msgspec.Struct):
    """One part of a message's content."""

    type: str
    text: str | None = None
    image_url: Raw = _ABSENT


class Message(msgspec.Struct):
    """One message of a conversation."""

    role: Name
    content: str | list[Part] | None = None
    tool_calls: Raw = _ABSENT


class StreamOptions(msgspec.Struct):
    """What a client asks of its stream."""

    include_usage: bool | None = None


class _Common(msgspec.Struct, kw_only=True):
    """Fields that several routes share."""

    model: Name
    stream: bool | None = None
    stream_options: Raw = _ABSENT
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    temperature: Annotated[float, Meta(ge=0.0, le=2.0)] | None = None
    top_p: Share | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    priority: Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)] | None = None
    user: Key | None = None
    prompt_cache_key: Key | None = None
    cache_salt: Key | None = None


class ChatBody(_Common, kw_only=True):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    tools: Raw = _ABSENT


class CompletionBody(_Common, kw_only=True):
    """POST /v1/completions; ``prompt`` is text, texts, token ids or lists of token ids."""

    prompt: str | list[str | int | list[int]]


class EmbeddingBody(_Common, kw_only=True):
    """POST /v1/embeddings."""

    input: str | list[str | int | list[int]]


class TokenizeBody(_Common, kw_only=True):
    """POST /tokenize, of a text or of a conversation."""

    prompt: str | None = None
    messages: Annotated[list[Message], Meta(min_length=1)] | None = None
    tools: Raw = _ABSENT


_CHAT: Final = msgspec.json.Decoder(ChatBody)
_COMPLETION: Final = msgspec.json.Decoder(CompletionBody)
_EMBEDDING: Final = msgspec.json.Decoder(EmbeddingBody)
_TOKENIZE: Final = msgspec.json.Decoder(TokenizeBody)
_STREAM_OPTIONS: Final = msgspec.json.Decoder(StreamOptions | None)


class Parsed(msgspec.Struct, frozen=True):
    """A client's body and what it says.

    Attributes:
        kind: Which route it came by.
        model: The name asked for.
        stream: Whether the reply is to be streamed.
        wants_usage: Whether the client asked for usage at the end of its stream.
        forward: The body to send to the engine: the client's bytes, except where usage had to be
            asked for.
        prompt: What is routed on.
        max_output_tokens: The client's cap, over all choices, or None.
        session: The client's key for requests that belong together, or None.
        priority: Higher is served first (vLLM's field counts the other way).

    """

    kind: Kind
    model: ModelName
    stream: bool
    wants_usage: bool
    forward: bytes
    prompt: Prompt
    max_output_tokens: int | None
    session: str | None
    priority: int


def parse(kind: Kind, body: bytes) -> Parsed:
    """Read a request body.

    Raises:
        InvalidRequest: names the field and what was expected, or says where the JSON is broken.

    """
    try:
        fields, prompt = _decode(kind, body)
        options = _stream_options(fields.stream_options)
        if not body.isascii():
            body.decode()  # the fields we skip were not looked at, and engines would choke
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None
    except UnicodeDecodeError:
        raise InvalidRequest("the body is not valid UTF-8") from None
    except RecursionError:
        raise InvalidRequest("the body is nested too deeply") from None
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from None
    stream = bool(fields.stream)
    wants_usage = options is not None and options.include_usage is True
    ask = stream and not wants_usage and kind in (Kind.CHAT, Kind.COMPLETION)
    cap = fields.max_completion_tokens or fields.max_tokens
    return Parsed(
        kind=kind,
        model=ModelName(fields.model),
        stream=stream,
        wants_usage=wants_usage,
        forward=ask_for_usage(body, fields.stream_options) if ask else body,
        prompt=prompt,
        max_output_tokens=None if cap is None else cap * (fields.n or 1),
        session=fields.prompt_cache_key or fields.user,
        priority=-(fields.priority or 0),
    )


def _stream_options(raw: Raw) -> StreamOptions | None:
    if not len(raw):
        return None
    try:
        options: StreamOptions | None = _STREAM_OPTIONS.decode(raw)
    except msgspec.ValidationError as error:
        raise _invalid(str(error), under="stream_options") from None
    return options


def _decode(kind: Kind, body: bytes) -> tuple[_Common, Prompt]:
    if kind is Kind.CHAT:
        chat = _CHAT.decode(body)
        return chat, _conversation(chat, chat.messages, chat.tools)
    if kind is Kind.COMPLETION:
        completion = _COMPLETION.decode(body)
        return completion, _prompt(completion, completion.prompt, "prompt")
    if kind is Kind.EMBEDDING:
        embedding = _EMBEDDING.decode(body)
        return embedding, _prompt(embedding, embedding.input, "input")
    tokenize = _TOKENIZE.decode(body)
    if tokenize.messages is not None:
        return tokenize, _conversation(tokenize, tokenize.messages, tokenize.tools)
    if tokenize.prompt is None:
        raise InvalidRequest("either prompt or messages is required", field="prompt")
    return tokenize, text_prompt(tokenize.prompt, tokenize.model, tokenize.cache_salt)


def _conversation(fields: _Common, messages: list[Message], tools: Raw) -> Prompt:
    parts: list[str] = []
    for message in messages:
        content = message.content
        parts.append(message.role)
        if isinstance(content, str):
            parts.append(content)
        elif content is not None:
            parts.extend(_part_text(part) for part in content)
        if len(message.tool_calls):
            parts.append(_text_of(message.tool_calls))
    # chat templates put the tools before the messages
    return chat_prompt(_text_of(tools), parts, fields.model, fields.cache_salt)


def _part_text(part: Part) -> str:
    if part.text is not None:
        return part.text
    return _text_of(part.image_url) if len(part.image_url) else part.type


def _text_of(raw: Raw) -> str:
    return str(memoryview(raw), "utf-8")


def _prompt(fields: _Common, value: str | list[str | int | list[int]], field: str) -> Prompt:
    """Read a prompt in any of its four forms; of several prompts the first is routed on."""
    if isinstance(value, str):
        return text_prompt(value, fields.model, fields.cache_salt)
    if not value:
        raise InvalidRequest(f"{field}: expected at least one prompt or token id", field=field)
    kinds = set(map(type, value))
    if len(kinds) > 1:
        raise InvalidRequest(f"{field}: expected items of one kind, found several", field=field)
    first = value[0]
    others = value[1:]
    if isinstance(first, str):
        more = sum(len(text) for text in others if isinstance(text, str))
        return text_prompt(first, fields.model, fields.cache_salt, more_chars=more)
    ids = first if isinstance(first, list) else [i for i in value if isinstance(i, int)]
    more = sum(len(tokens) for tokens in others if isinstance(tokens, list))
    try:
        return ids_prompt(ids, fields.model, fields.cache_salt, more_tokens=more)
    except OverflowError:
        raise InvalidRequest(
            f"{field}: expected token ids from 0 to {2**32 - 1}", field=field
        ) from None


_PATH: Final = re.compile(r" - at `\$\.?(.*)`$")
_MISSING: Final = re.compile(r"^Object missing required field `(.+?)`")


def _invalid(text: str, *, under: str = "") -> InvalidRequest:
    """Turn msgspec's words into an error that names the field first; ``under`` is where it is."""
    at = _PATH.search(text)
    path = ".".join(filter(None, (under, at[1] if at else "")))
    what = text[: at.start()] if at else text
    missing = _MISSING.match(what)
    if missing:
        field = f"{path}.{missing[1]}" if path else missing[1]
        return InvalidRequest(f"{field}: required, but missing", field=field)
    what = f"{what[:1].lower()}{what[1:]}"
    if not path:
        return InvalidRequest(f"the body: {what}")
    return InvalidRequest(f"{path}: {what}", field=path)


_USAGE: Final = b'"stream_options":{"include_usage":true}}'


def ask_for_usage(body: bytes, options: Raw) -> bytes:
    """Return ``body`` with ``stream_options.include_usage`` true, the rest byte for byte as it was.

    ``body`` is a JSON object with at least one member, and ``options`` what it holds under
    ``stream_options``. Engines take the last of two members of one name (JSON decoders of Python
    do), so a member that cannot be found to be replaced is overruled by one put at the end.
    """
    end = body.rindex(b"}")
    if not len(options):
        return body[:end] + b"," + _USAGE
    wanted = msgspec.json.decode(options) or {}
    wanted["include_usage"] = True
    member = b'"stream_options":' + msgspec.json.encode(wanted)
    old = re.compile(rb'"stream_options"\s*:\s*' + re.escape(bytes(options)))
    if len(old.findall(body)) == 1:
        return old.sub(lambda _: member, body)
    return body[:end] + b"," + member + b"}"
