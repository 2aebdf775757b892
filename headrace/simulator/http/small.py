"""Bodies of the routes that answer at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

import orjson

from headrace.simulator.http.errors import bad
from headrace.simulator.http.faults import Faults
from headrace.simulator.http.prepare import Site, chat_text, token_ids
from headrace.simulator.http.text import decode, encode, utf8
from headrace.simulator.http.wire import DetokenizeRequest, TokenizeRequest
from kvcache.shell.publisher import EventPublisher

VERSION: Final = b'{"version":"0.32.0+headrace"}'
"""What this looks like, and that it is not."""


def dumps(value: Mapping[str, object]) -> bytes:
    """Return JSON."""
    return orjson.dumps(value)


def models(site: Site, now_unix_s: int) -> bytes:
    """Return the models served: the base model's names, then adapters with their parent."""
    base = site.names[0]
    cards = [_card(site, name, base, None, now_unix_s) for name in site.names]
    cards += [
        _card(site, adapter.name, adapter.path, base, now_unix_s)
        for adapter in site.adapters.loaded()
    ]
    return orjson.dumps({"object": "list", "data": cards})


def _card(site: Site, name: str, root: str, parent: str | None, created: int) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "vllm",
        "root": root,
        "parent": parent,
        "max_model_len": None if parent else site.context_tokens,
        "permission": [],
    }


def tokenize(request: TokenizeRequest, site: Site) -> bytes:
    """Return the tokens of a text or a conversation."""
    site.scope(request.model, None)
    if request.messages is not None:
        generate = request.add_generation_prompt is not False
        ids = encode(chat_text(request.messages, None, generate=generate))
    elif request.prompt is not None:
        ids = encode(utf8(request.prompt))
    else:
        raise bad("either prompt or messages must be given", "prompt")
    tokens: list[int] = ids.tolist()
    strings = [decode([token]) for token in tokens] if request.return_token_strs else None
    return orjson.dumps(
        {
            "count": len(tokens),
            "max_model_len": site.context_tokens,
            "tokens": tokens,
            "token_strs": strings,
        }
    )


def detokenize(request: DetokenizeRequest, site: Site) -> bytes:
    """Return the text of tokens."""
    site.scope(request.model, None)
    text = decode(token_ids(request.tokens)) if request.tokens else ""
    return orjson.dumps({"prompt": text})


def event_sources(publisher: EventPublisher | None) -> bytes:
    """Return where KV events come from, by data-parallel rank; empty when there are none."""
    if publisher is None:
        return b"{}"
    settings = publisher.settings
    source = {
        "enable_kv_cache_events": True,
        "publisher": "zmq",
        "endpoint": publisher.endpoint,
        "replay_endpoint": publisher.replay_endpoint,
        "buffer_steps": settings.buffer_steps,
        "hwm": settings.hwm,
        "max_queue_size": settings.hwm,
        "topic": settings.topic,
    }
    return orjson.dumps({"0": source})


def active(faults: Faults) -> dict[str, object]:
    """Return what is wrong with an engine now."""
    return asdict(faults)
