"""Embeddings: unit vectors that are the same for the same text, after the prefill's time."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import orjson
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from headrace.simulator.http.errors import bad, prompt_too_long
from headrace.simulator.http.exchange import Exchange
from headrace.simulator.http.generation import Ending, Generation, Prompt
from headrace.simulator.http.prepare import Site, token_ids
from headrace.simulator.http.text import TokenArray
from headrace.simulator.http.wire import EmbeddingRequest, read_prompts

DIMENSIONS: Final = 384
"""Of a vector unless the client says otherwise; that of common small embedding models."""

_MAX_DIMENSIONS: Final = 4096
_MAX_INPUTS: Final = 2048  # OpenAI's own limit


@dataclass(frozen=True, slots=True)
class EmbeddingJob:
    """A checked request: one sequence per input, each with one token to compute after it."""

    model: str
    generations: list[Generation]
    dimensions: int
    as_base64: bool


def embedding_job(request: EmbeddingRequest, site: Site) -> EmbeddingJob:
    """Check a request.

    Raises:
        ApiError: it must be refused.

    """
    model, scope = site.scope(request.model, None)
    if request.encoding_format not in {None, "float", "base64"}:
        raise bad("encoding_format must be 'float' or 'base64'", "encoding_format")
    dimensions = DIMENSIONS if request.dimensions is None else request.dimensions
    if not 1 <= dimensions <= _MAX_DIMENSIONS:
        raise bad(f"dimensions must be in [1, {_MAX_DIMENSIONS}], got {dimensions}", "dimensions")
    inputs = read_prompts(request.input, "input")
    if len(inputs) > _MAX_INPUTS:
        raise bad(f"at most {_MAX_INPUTS} inputs per request, got {len(inputs)}", "input")
    generations: list[Generation] = []
    for item in inputs:
        ids = token_ids(item)
        if len(ids) >= site.context_tokens:
            raise prompt_too_long(site.context_tokens, len(ids))
        prompt = Prompt(ids, scope, [])
        generations.append(Generation(prompt, b"    ", Ending(1, 4, "stop"), site.hasher))
    return EmbeddingJob(model, generations, dimensions, request.encoding_format == "base64")


def vector(ids: TokenArray, dimensions: int) -> NDArray[np.float32]:
    """Return the unit vector of a text; its direction follows from the tokens alone."""
    rng = np.random.Generator(np.random.PCG64(xxh3_64_intdigest(ids.tobytes())))
    raw = rng.standard_normal(dimensions)
    unit: NDArray[np.float32] = (raw / np.linalg.norm(raw)).astype(np.float32)
    return unit


class EmbeddingReply:
    """Answers when the last input has been computed."""

    def __init__(self, job: EmbeddingJob, exchange: Exchange, created: int) -> None:
        self._job = job
        self._exchange = exchange
        self._created = created
        self._left = len(job.generations)
        ender: Callable[[int], None] = self._end
        for generation in job.generations:
            generation.end = ender
        if not self._left:
            self._answer()

    def _end(self, _cached_tokens: int) -> None:
        self._left -= 1
        if self._left == 0:
            self._answer()

    def _answer(self) -> None:
        job = self._job
        data = [
            {
                "index": index,
                "object": "embedding",
                "embedding": self._shown(vector(generation.prompt.ids, job.dimensions)),
            }
            for index, generation in enumerate(job.generations)
        ]
        tokens = sum(len(generation.prompt.ids) for generation in job.generations)
        body = {
            "id": f"embd-{uuid.uuid4().hex}",
            "object": "list",
            "created": self._created,
            "model": job.model,
            "data": data,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0},
        }
        self._exchange.reply(200, orjson.dumps(body))

    def _shown(self, values: NDArray[np.float32]) -> str | list[float]:
        if self._job.as_base64:
            return base64.b64encode(values.astype("<f4").tobytes()).decode()
        return [float(value) for value in values]
