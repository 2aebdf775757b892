"""Refusals in vLLM's words. Pure.

Source: bodies of vLLM 0.32.0 as answered by its OpenAI server; see docs/simulated-engine.md.
"""

from __future__ import annotations

from http import HTTPStatus

import msgspec
import orjson


class ApiError(Exception):
    """A request refused: what to answer with."""

    def __init__(
        self, status: int, message: str, kind: str = "BadRequestError", param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param

    def body(self) -> bytes:
        """Return the JSON body."""
        return orjson.dumps(
            {
                "error": {
                    "message": self.message,
                    "type": self.kind,
                    "param": self.param,
                    "code": self.status,
                }
            }
        )


def bad(message: str, param: str | None = None) -> ApiError:
    """Return the refusal of a value that parses but makes no sense."""
    return ApiError(400, message, param=param)


def invalid(kind: str, field: str, problem: str) -> ApiError:
    """Return the refusal of a body that does not parse; ``field`` is dotted, from the body."""
    where = f"body.{field}" if field else "body"
    detail = {"type": kind, "loc": where, "msg": problem}
    return ApiError(400, f"1 validation error:\n  {detail}", "Bad Request", where)


def unsupported_media() -> ApiError:
    """Return the refusal of a body that is not declared as JSON."""
    text = "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"
    return ApiError(400, text, "Bad Request")


def not_decoded(error: Exception, length: int = 0) -> ApiError:
    """Return the refusal for what the decoder raised on a body of ``length`` bytes."""
    if isinstance(error, RecursionError):
        return invalid("json_invalid", "", "JSON is nested too deeply")
    text = str(error)
    if not isinstance(error, msgspec.ValidationError):
        where = _between(text, "(byte ", ")") or str(length)
        return invalid("json_invalid", where, "JSON decode error")
    path = _between(text, "at `$.", "`") or _between(text, "at `$", "`")
    if text.startswith("Object missing required field `"):
        name = _between(text, "field `", "`")
        return invalid("missing", f"{path}.{name}" if path else name, "Field required")
    return invalid("value_error", path, text.split(" - at ", maxsplit=1)[0])


def _between(text: str, left: str, right: str) -> str:
    _, found, rest = text.partition(left)
    return rest.partition(right)[0] if found else ""


def unknown_model(name: str, aliases: list[str]) -> ApiError:
    """Return the 404 for a model nobody here serves."""
    listed = ", ".join(aliases)
    message = f"The model `{name}` does not exist. Valid aliases: {listed}."
    return ApiError(404, message, "NotFoundError", "model")


def prompt_too_long(limit: int, prompt_tokens: int) -> ApiError:
    """Return the 400 for a prompt that leaves no room in the context."""
    return bad(
        f"This model's maximum context length is {limit} tokens. However, your prompt contains at "
        f"least {prompt_tokens} input tokens, which exceeds this limit even without any output "
        "tokens. Please reduce the length of the input prompt. (parameter=input_tokens, "
        f"value={prompt_tokens})",
        "input_tokens",
    )


def engine_busy() -> ApiError:
    """Return the 503 of an engine whose queue is at its limit."""
    message = (
        "The engine is currently busy and cannot accept new requests. Please try again later or on "
        "a different instance."
    )
    return ApiError(503, message, "Service Unavailable")


def internal(status: int = 500) -> ApiError:
    """Return what a broken engine says; only a fault that was asked for leads here."""
    message = "EngineCore encountered an issue. See stack trace (above) for the root cause."
    kind = "InternalServerError" if status == 500 else HTTPStatus(status).phrase
    return ApiError(status, message, kind)
