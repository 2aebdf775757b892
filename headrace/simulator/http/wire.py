"""Bodies that clients send, as vLLM 0.32 reads them. Pure.

Fields that change nothing here (penalties, top_k, logit_bias, user ...) are not named: like any
field vLLM does not know, they are accepted and ignored.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

import msgspec

from headrace.simulator.http.errors import invalid, not_decoded

T = TypeVar("T")

ABSENT: Final = msgspec.Raw(b"null")
"""JSON that was not sent, or sent as null; msgspec has no optional raw field."""


class StreamOptions(msgspec.Struct, frozen=True):
    """What a stream carries besides text."""

    include_usage: bool | None = False
    continuous_usage_stats: bool | None = False


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """Fields that chat and completions share."""

    model: str | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None
    n: int | None = 1
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    ignore_eos: bool | None = False
    priority: int | None = 0
    cache_salt: str | None = None
    request_id: str | None = None
    return_token_ids: bool | None = False
    kv_transfer_params: dict[str, Any] | None = None


class CompletionRequest(Sampling, frozen=True, kw_only=True):
    """``POST /v1/completions``; ``prompt`` is text, a list of texts, or (lists of) token ids."""

    prompt: msgspec.Raw = ABSENT
    echo: bool | None = False
    logprobs: int | None = None


class ContentPart(msgspec.Struct, frozen=True):
    """One part of a message given in parts."""

    type: str
    text: str | None = None


class Message(msgspec.Struct, frozen=True):
    """One turn; ``tool_calls`` stays as it came, it is only text to the model."""

    role: str
    content: str | list[ContentPart] | None = None
    tool_calls: msgspec.Raw = ABSENT


class Function(msgspec.Struct, frozen=True):
    """A function offered to the model; ``parameters`` is a JSON schema."""

    name: str
    parameters: dict[str, Any] | None = None


class Tool(msgspec.Struct, frozen=True):
    """A tool offered to the model; only functions exist."""

    function: Function
    type: str = "function"


class ChatRequest(Sampling, frozen=True, kw_only=True):
    """``POST /v1/chat/completions``."""

    messages: list[Message]
    max_completion_tokens: int | None = None
    logprobs: bool | None = False
    top_logprobs: int | None = None
    tools: list[Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None
    add_generation_prompt: bool | None = True
    continue_final_message: bool | None = False


class EmbeddingRequest(msgspec.Struct, frozen=True):
    """``POST /v1/embeddings``; ``input`` has the forms of a completion's prompt."""

    input: msgspec.Raw
    model: str | None = None
    encoding_format: str | None = "float"
    dimensions: int | None = None


class TokenizeRequest(msgspec.Struct, frozen=True):
    """``POST /tokenize``: text or a conversation."""

    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None
    add_generation_prompt: bool | None = True
    return_token_strs: bool | None = False


class DetokenizeRequest(msgspec.Struct, frozen=True):
    """``POST /detokenize``."""

    tokens: list[int]
    model: str | None = None


class LoadAdapter(msgspec.Struct, frozen=True):
    """``POST /v1/load_lora_adapter``."""

    lora_name: str
    lora_path: str
    load_inplace: bool | None = False


class UnloadAdapter(msgspec.Struct, frozen=True):
    """``POST /v1/unload_lora_adapter``."""

    lora_name: str


def read(kind: type[T], body: bytes) -> T:
    """Return ``body`` as ``kind``; numbers and booleans may come as strings, as pydantic has it.

    Raises:
        ApiError: 400 if it is not JSON or a field has the wrong type.

    """
    try:
        return msgspec.json.decode(body, type=kind, strict=False)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise not_decoded(error, len(body)) from None


def is_absent(raw: msgspec.Raw) -> bool:
    """Return whether a raw field was left out or null."""
    return bytes(raw) == bytes(ABSENT)


_PROMPT_FORMS: Final = (str, list[int], list[str], list[list[int]])


def read_prompts(raw: msgspec.Raw, field: str) -> list[str | list[int]]:
    """Return the prompts in ``raw``: one text, one list of token ids, or a list of either.

    Raises:
        ApiError: 400 if it has none of those forms.

    """
    for form in _PROMPT_FORMS:
        try:
            value: Any = msgspec.json.decode(raw, type=form)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            continue
        single = form is str or form == list[int]
        prompts: list[str | list[int]] = [value] if single else value
        return prompts
    raise invalid("value_error", field, "expected text, texts, token ids or lists of token ids")
