"""Finds out how an engine names its blocks, from what it says of one of them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from headrace.core.endpoint import BlockScheme
from kvcache.events import BlockStored
from kvcache.hashing import Algorithm, BlockHasher, Scope, external

_ALGORITHMS: Final[tuple[Algorithm, ...]] = ("sha256", "sha256_cbor")
_NO_PATHS: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Guesses:
    """What an engine might be set to, besides vLLM's defaults.

    Attributes:
        seeds: Values that its PYTHONHASHSEED may have.
        lora_paths: Per adapter, the path it was loaded from: hashed, but not in events.

    """

    seeds: tuple[str, ...] = ()
    lora_paths: Mapping[str, str] = field(default_factory=lambda: _NO_PATHS)


NO_GUESSES: Final = Guesses()


def detect(event: BlockStored, guesses: Guesses = NO_GUESSES) -> BlockScheme | None:
    """Return the scheme under which the first block of ``event`` has the hash it was given.

    Only an event that starts a chain can tell. None if it cannot, or if no scheme fits: the engine
    uses an algorithm that is not reproducible (``xxhash*`` with a random seed), a seed that is not
    among the guesses, an adapter whose path we do not know, or images in the first block.
    """
    size = event.block_size
    if event.parent_block_hash is not None or not event.block_hashes or size < 1:
        return None
    tokens = event.token_ids[:size]
    if len(tokens) < size or min(tokens) < 0 or max(tokens) >= 1 << 63:
        return None
    told = event.block_hashes[0]
    for scope in _scopes(event, guesses):
        for algorithm in _ALGORITHMS:
            for seed in (None, *guesses.seeds):
                (digest,) = BlockHasher(size, algorithm, seed).hashes(tokens, scope)
                if told == (digest if isinstance(told, bytes) else external(digest)):
                    return BlockScheme(size, algorithm, seed)
    return None


def _scopes(event: BlockStored, guesses: Guesses) -> Iterator[Scope]:
    """Yield what may have been hashed with the first block's tokens.

    Its extra keys are untagged: the adapter's name, if any, then (image, offset) pairs, then the
    salt, then digests of prompt embeddings. Source: vLLM 0.32.0, ``to_event_extra_keys`` and
    ``generate_block_hash_extra_keys``. The older form of events has no extra keys.
    """
    keys = list((event.extra_keys[0] if event.extra_keys else None) or ())
    name = event.lora_name
    if name is not None and keys and keys[0] == name:
        del keys[0]
    salt = keys[0] if keys else None
    if len(keys) > 1 or not (salt is None or isinstance(salt, str)):
        return
    if name is None:
        yield Scope(cache_salt=salt)
        return
    for path in dict.fromkeys((guesses.lora_paths.get(name, ""), "")):
        yield Scope(name, path, salt)
