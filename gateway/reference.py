"""Puts the relayed routes, which FastAPI never sees, into its OpenAPI description. Pure."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from fastapi import FastAPI

from gateway.dispatch import PATHS
from gateway.openai import ChatBody, CompletionBody, EmbeddingBody, Kind, TokenizeBody

BODIES: Final[dict[Kind, tuple[type[msgspec.Struct], str]]] = {
    Kind.CHAT: (ChatBody, "Chat, streamed or whole"),
    Kind.COMPLETION: (CompletionBody, "Completion of a text, texts or token ids"),
    Kind.EMBEDDING: (EmbeddingBody, "Embeddings"),
    Kind.TOKENIZE: (TokenizeBody, "Tokens of a text or of a conversation"),
}

REFUSALS: Final = {
    "400": "The request is wrong; the error names the field",
    "401": "No valid key",
    "404": "Nobody serves that model",
    "413": "The body is too long",
    "415": "The body is not declared as JSON",
    "429": "Full for now; Retry-After says when to come again",
    "502": "An engine failed",
    "503": "No endpoint is ready",
    "504": "An engine did not answer in time",
}


def add_relayed_routes(app: FastAPI) -> None:
    """Describe the relayed routes: the fields we read; all others go to the engine as they came."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        schema = made()
        for kind, (body, summary) in BODIES.items():
            schema["paths"].setdefault(PATHS[kind], {"post": _operation(body, summary)})
        return schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way


def _operation(body: type[msgspec.Struct], summary: str) -> dict[str, Any]:
    fields = msgspec.structs.fields(body)
    schema = {
        "type": "object",
        "properties": {field.encode_name: {} for field in fields},
        "required": [field.encode_name for field in fields if field.required],
        "additionalProperties": True,
    }
    replies = {"200": "The engine's reply, or its stream of server-sent events", **REFUSALS}
    return {
        "summary": summary,
        "description": "Fields not listed here are passed on to the engine.",
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": {status: {"description": text} for status, text in replies.items()},
    }
