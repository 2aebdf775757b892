"""What two engines are sent that share a request, and what the first one says of it. Pure.

Source: vLLM 0.32's NIXL connector and the proxy in its tests: the engine that computes the prompt
is asked for one token with ``do_remote_decode``, and what it returns as ``kv_transfer_params`` goes
into the body that the other engine gets. Only whole replies carry it, never streams.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Raw

from gateway.openai import Kind
from headrace.core.errors import EngineRefused

_MEMBERS: Final = msgspec.json.Decoder(dict[str, Raw])

_ABSENT: Final = (b"", b"null")

_PLAIN: Final = {
    **dict.fromkeys(("n", "best_of"), (*_ABSENT, b"1")),
    **dict.fromkeys(("echo", "use_beam_search"), (*_ABSENT, b"false")),
    "tool_choice": (*_ABSENT, b'"auto"', b'"none"'),
    **dict.fromkeys(
        (
            "prompt_logprobs",
            "prompt_embeds",
            "suffix",
            "truncate_prompt_tokens",
            "kv_transfer_params",
        ),
        _ABSENT,
    ),
}
"""Values of members with which a request can be shared. With others the prompt is answered with, or
is not what it seems, or there are several replies, or one token is no valid reply (a call of a tool
that was asked for), or the client does all this itself."""

_OF_THE_REPLY: Final = ("stream_options", "min_tokens", "logprobs", "top_logprobs")
"""Members that say what the reply should be, and are wrong or useless for one token."""

_FIRST: Final = {
    "stream": Raw(b"false"),
    "max_tokens": Raw(b"1"),
    "kv_transfer_params": Raw(
        b'{"do_remote_decode":true,"do_remote_prefill":false,"remote_engine_id":null,'
        b'"remote_block_ids":null,"remote_host":null,"remote_port":null}'
    ),
}


class _Reply(msgspec.Struct):
    kv_transfer_params: Raw = Raw()


_REPLY: Final = msgspec.json.Decoder(_Reply)


def can_be_shared(kind: Kind, body: bytes) -> bool:
    """Return whether one engine may compute the prompt of ``body`` and another the reply.

    ``body`` was read once already, so it is a JSON object.
    """
    if kind not in (Kind.CHAT, Kind.COMPLETION):
        return False
    members = _MEMBERS.decode(body)
    if any(bytes(members.get(name, b"")) not in plain for name, plain in _PLAIN.items()):
        return False
    return kind is Kind.CHAT or _is_one_prompt(bytes(members["prompt"]))


def _is_one_prompt(prompt: bytes) -> bool:
    """Whether it is a text or the tokens of one; lists of either are several prompts."""
    return not prompt.startswith(b"[") or prompt[1:].lstrip()[:1] not in (b'"', b"[")


def first_body(body: bytes) -> bytes:
    """Return what the engine that computes the prompt is sent: the body, but for one token."""
    members = _MEMBERS.decode(body)
    for name in _OF_THE_REPLY:
        members.pop(name, None)
    if "max_completion_tokens" in members:
        members["max_completion_tokens"] = Raw(b"1")
    return msgspec.json.encode({**members, **_FIRST})


def handed_over(reply: bytes) -> bytes:
    """Return the ``kv_transfer_params`` of the first engine's reply, as they came.

    Raises:
        EngineRefused: if it has none, so that there is nothing the other engine could fetch.

    """
    try:
        params = bytes(_REPLY.decode(reply).kv_transfer_params)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        params = b""
    if not params.startswith(b"{"):
        raise EngineRefused("an engine computed a prompt and did not say where it is")
    return params


def second_body(body: bytes, params: bytes) -> bytes:
    """Return what the other engine is sent: the body byte for byte, and what was handed over.

    A member of that name that ``body`` has already is null; engines take the last.
    """
    return b'%b,"kv_transfer_params":%b}' % (body[: body.rindex(b"}")], params)
