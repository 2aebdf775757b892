"""What routing may know of a request before its first token. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from headrace.core.endpoint import BlockScheme
from headrace.core.ids import BlockHash, ModelName, RequestId

NO_ENGINE_BLOCKS: Final[Mapping[BlockScheme, Sequence[int]]] = MappingProxyType({})
"""The engine blocks of a prompt that nobody tokenised."""


@dataclass(frozen=True, slots=True)
class RouteRequest:
    """One request to place.

    Attributes:
        request_id: Unique among requests in flight.
        model: The name the client asked for.
        prompt_tokens: Length of the prompt; an estimate where nobody tokenised it.
        blocks: Chained hashes of the prompt's full routing blocks, first block first.
        block_tokens: Tokens that one entry of ``blocks`` stands for (estimated likewise).
        max_output_tokens: The client's cap on output, or None.
        session: Opaque session key from the client, or None.
        priority: Higher is served first.
        first_token_seen: Whether its first token will be reported; a reply that is not streamed
            shows nothing before its end.
        labels: What the endpoint must be labelled with, if anything.
        may_split: Whether one endpoint may compute its prompt and another its reply.
        engine_blocks: Per block scheme, the hashes of the prompt's full engine blocks as KV events
            carry them, first block first; empty where nobody tokenised the prompt.

    """

    request_id: RequestId
    model: ModelName
    prompt_tokens: int
    blocks: tuple[BlockHash, ...] = ()
    block_tokens: float = 16.0
    max_output_tokens: int | None = None
    session: str | None = None
    priority: int = 0
    first_token_seen: bool = True
    labels: tuple[tuple[str, str], ...] = ()
    may_split: bool = False
    engine_blocks: Mapping[BlockScheme, Sequence[int]] = field(
        default_factory=lambda: NO_ENGINE_BLOCKS
    )
