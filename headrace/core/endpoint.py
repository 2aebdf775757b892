"""Endpoints as last reported. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from headrace.core.ids import EndpointId, ModelName


class Role(StrEnum):
    """What an endpoint does when prefill and decode are disaggregated."""

    BOTH = "both"
    PREFILL = "prefill"
    DECODE = "decode"


class Health(StrEnum):
    """Whether an endpoint may be given new requests."""

    READY = "ready"
    DRAINING = "draining"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast an endpoint is thought to be before we have measured it.

    Attributes:
        prefill_tokens_per_s: Prompt tokens computed per second when busy with nothing else.
        kv_tokens: Tokens its KV cache holds.
        fetch_tokens_per_s: Tokens per second brought back from a lower cache tier: 128 KiB each,
            as of an 8B model, over half of a 16-lane PCIe 4.0 slot.
        transfer_tokens_per_s: Tokens per second whose KV it takes from another endpoint: 128 KiB
            each over half of a 200 Gbit/s link.
        adapter_load_ms: Time to load an adapter that it does not have.
        adapter_swap_ms: Time to bring one that it has into a slot, during which it does nothing
            else: 84 MB, as of rank 16 on all layers of an 8B model, read from disk in 30 ms and
            moved over PCIe 4.0 in 4, and the engine's own share. vLLM keeps no more adapters in
            memory than it has slots, unless told to.
        sequences: Requests that it computes at once (vLLM's ``max_num_seqs``). None where nobody
            said; the router then finds it out once so many run and others wait.

    """

    prefill_tokens_per_s: float = 8_000.0
    kv_tokens: int = 400_000
    fetch_tokens_per_s: float = 100_000.0
    transfer_tokens_per_s: float = 100_000.0
    adapter_load_ms: float = 500.0
    adapter_swap_ms: float = 40.0
    sequences: int | None = None


@dataclass(frozen=True, slots=True)
class BlockScheme:
    """How an engine names its KV blocks: equal schemes give equal tokens equal hashes.

    Attributes:
        block_tokens: Tokens per block.
        algorithm: The engine's prefix caching hash algorithm, as ``kvcache.hashing`` calls it.
        seed: What its chains start from, or None for the engine's default.

    """

    block_tokens: int
    algorithm: str = "sha256"
    seed: str | None = None


@dataclass(frozen=True, slots=True)
class KvEventSource:
    """Where an engine publishes its KV events: ZeroMQ addresses.

    Attributes:
        events: Of its PUB socket.
        replay: Of its ROUTER socket that sends past batches again, or None if it has none.
        topic: Prefix of the topics to subscribe to.

    """

    events: str
    replay: str | None = None
    topic: str = ""


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """An engine's own report; ``at_s`` is when it was true, on the reader's clock."""

    running: int
    waiting: int
    kv_used_ratio: float
    at_s: float


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Where the files of a name lie, as the engine that serves it says.

    Attributes:
        root: A folder or a hub id.
        parent: The base model's name, for an adapter.

    """

    root: str
    parent: ModelName | None = None


@dataclass(frozen=True, slots=True)
class EndpointView:
    """One endpoint, as discovery and the last probe describe it.

    ``models`` are the names it serves, base model first. ``url`` has no trailing slash.
    ``kv_events`` is None for an engine that publishes none: what it holds is then estimated.
    ``loadable`` are adapters it does not have but loads when a request names one. ``labels`` are
    what a request may ask for. ``dp_rank`` is set where several endpoints are the data parallel
    ranks behind one URL. ``files`` are those of ``models``, in the same order, as far as the engine
    tells. ``simulated`` engines make tokens of text in their own way. ``runtime_url`` is that of
    the sidecar beside it, without a trailing slash; None where there is none. ``adapter_slots`` are
    the adapters that it can have in one step (vLLM's ``max_loras``): None where nobody knows, 0 for
    an engine that takes none. ``adapter_rank`` is the widest that its slots are made for, and
    ``adapter_room`` how many it may know at once.
    """

    endpoint_id: EndpointId
    url: str
    models: tuple[ModelName, ...]
    role: Role = Role.BOTH
    health: Health = Health.READY
    speed: Speed = field(default_factory=Speed)
    load: EngineLoad | None = None
    kv_events: KvEventSource | None = None
    loadable: tuple[ModelName, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    dp_rank: int | None = None
    files: tuple[ModelFiles | None, ...] = ()
    simulated: bool = False
    runtime_url: str | None = None
    adapter_slots: int | None = None
    adapter_rank: int | None = None
    adapter_room: int | None = None
