"""What headers and endpoints say about a request's session and its model's files. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from gateway.tokens import ModelSource
from headrace.core.endpoint import EndpointView
from headrace.core.errors import InvalidRequest
from headrace.core.ids import ModelName

SESSION_HEADERS: Final = (
    b"x-session-id",
    b"x-session-token",
    b"x-claude-code-session-id",
    b"x-session-affinity",
    b"x-dynamo-session-id",
    b"session-id",
)
"""Headers in which clients and agents name their session, most explicit first.

Source: llm-d's session affinity, Claude Code, opencode, Dynamo and Codex.
"""

MAX_SESSION_BYTES: Final = 256
"""Longer ones are no names, and would cost memory."""


def session_of(headers: Mapping[bytes, bytes]) -> str | None:
    """Return the session that a request's headers name, if any."""
    for name in SESSION_HEADERS:
        value = headers.get(name)
        if value and len(value) <= MAX_SESSION_BYTES:
            return value.decode("latin-1")
    return None


MAX_LABELS: Final = 16
MAX_LABELS_BYTES: Final = 1_024
"""What a header may ask for; more is a mistake or an attack."""


def labels_of(headers: Mapping[bytes, bytes], name: bytes) -> tuple[tuple[str, str], ...]:
    """Return the labels that a request's endpoint must carry: ``key=value``, parted by commas.

    Args:
        headers: The request's.
        name: The header that has them; b"" for none.

    Raises:
        InvalidRequest: if it is of another form.

    """
    value = headers.get(name) if name else None
    if not value:
        return ()
    header = name.decode("latin-1")
    if len(value) > MAX_LABELS_BYTES:
        raise InvalidRequest(f"header {header}: longer than {MAX_LABELS_BYTES} bytes", field=header)
    pairs = [pair.strip() for pair in value.decode("latin-1").split(",")]
    labels: dict[str, str] = {}
    for pair in pairs:
        key, equals, wanted = (part.strip() for part in pair.partition("="))
        if not key or not equals or not wanted or "=" in wanted:
            raise InvalidRequest(
                f"header {header}: expected key=value,key=value, found {pair!r}", field=header
            )
        if labels.setdefault(key, wanted) != wanted:
            raise InvalidRequest(f"header {header}: two values for {key!r}", field=header)
    if len(labels) > MAX_LABELS:
        raise InvalidRequest(f"header {header}: more than {MAX_LABELS} labels", field=header)
    return tuple(labels.items())


def source_of(serving: Sequence[EndpointView], model: ModelName) -> ModelSource | None:
    """Return where the tokens of ``model`` come from, as the endpoints that serve it say.

    None when they disagree, or none has said yet: then nothing is tokenised.
    """
    found: ModelSource | None = None
    for view in serving:
        source = _said_by(view, model)
        if source is None:
            continue
        if found is not None and source != found:
            return None
        found = source
    return found


class Sources:
    """Remembers ``source_of`` per model for as long as the endpoints stay as they are."""

    def __init__(self, serving: Callable[[ModelName], Sequence[EndpointView]]) -> None:
        self._serving = serving
        self._known: dict[ModelName, ModelSource | None] = {}

    def of(self, model: ModelName) -> ModelSource | None:
        """Return where the tokens of ``model`` come from; None where nobody says, or for none."""
        if model not in self._known:
            serving = self._serving(model)
            if not serving:
                return None  # clients must not be able to fill our memory with names
            self._known[model] = source_of(serving, model)
        return self._known[model]

    def forget(self) -> None:
        """Look again: the endpoints have changed."""
        self._known.clear()


def _said_by(view: EndpointView, model: ModelName) -> ModelSource | None:
    files = dict(zip(view.models, view.files, strict=False))
    own = files.get(model)
    if own is None or own.parent is None:
        root = None if own is None else own.root
        if model not in view.models:
            return None
        return ModelSource(model, root, simulated=view.simulated)
    base = files.get(own.parent)
    return ModelSource(
        own.parent,
        None if base is None else base.root,
        simulated=view.simulated,
        lora_name=model,
        lora_path=own.root,
    )
