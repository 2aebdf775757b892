"""Settings of the gateway; ``docs/operate/configure.md`` is generated from what is here."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from gateway.adapters_config import AdapterSettings
from router.catalog import POLICIES

_STRICT = ConfigDict(extra="forbid", frozen=True)


class LimitSettings(BaseModel):
    """What clients may take of the gateway. Beyond each limit they get an error that says so."""

    model_config = _STRICT

    concurrent_requests: int = Field(
        default=1_024,
        ge=1,
        description="Requests admitted at once; more get 429. Bounds memory and upstream sockets.",
    )
    connections: int = Field(
        default=4_096,
        ge=1,
        description="Client connections open at once; more get 503 and are closed.",
    )
    body_bytes: int = Field(
        default=32 << 20,
        ge=1_024,
        description="Longest request body; longer ones get 413. 32 MiB hold 8 million tokens.",
    )
    total_body_bytes: int = Field(
        default=512 << 20,
        ge=1_024,
        description="Request bodies held at once, all requests together; beyond it they get 429.",
    )
    head_bytes: int = Field(
        default=32_768,
        ge=1_024,
        description="Longest request line and headers together; longer ones get 431.",
    )
    head_s: float = Field(
        default=10.0,
        gt=0,
        description="Seconds in which a client must have sent its headers, from its first byte or "
        "from connecting. Keeps idle sockets from being held on purpose.",
    )
    body_s: float = Field(
        default=60.0, gt=0, description="Seconds in which a client must have sent its body."
    )
    keepalive_s: int = Field(
        default=60, ge=1, description="Seconds an idle client connection is kept."
    )
    stall_s: float = Field(
        default=60.0,
        gt=0,
        description="Seconds a client may leave its stream unread before it counts as gone. "
        "Meanwhile the engine's stream is paused, so memory stays bounded.",
    )
    retry_after_s: float = Field(
        default=1.0, gt=0, description="Seconds named in Retry-After when the gateway is full."
    )


class UpstreamSettings(BaseModel):
    """How the gateway talks to engines."""

    model_config = _STRICT

    connections_per_endpoint: int = Field(
        default=1_024,
        ge=1,
        description="Sockets to one endpoint; a request that would need more goes elsewhere.",
    )
    connect_s: float = Field(
        default=2.0, gt=0, description="Seconds to connect; engines are near, so this is long."
    )
    first_byte_s: float = Field(
        default=120.0,
        gt=0,
        description="Seconds from dispatch to the first streamed byte, queue and prefill included; "
        "then the request is tried elsewhere.",
    )
    reply_s: float = Field(
        default=600.0,
        gt=0,
        description="Seconds from dispatch to a reply that is not streamed: all of its generation.",
    )
    idle_s: float = Field(
        default=60.0,
        gt=0,
        description="Seconds between two pieces of a stream; then the engine counts as hung, "
        "whatever its health check says.",
    )
    keepalive_s: float = Field(
        default=4.0,
        gt=0,
        description="Seconds an idle socket is kept. Below vLLM's 5 s, so that we close first and "
        "no request meets a socket that is being closed.",
    )
    head_bytes: int = Field(default=65_536, ge=1_024, description="Longest head of a reply.")
    reply_bytes: int = Field(
        default=64 << 20, ge=1_024, description="Longest reply that is not streamed."
    )
    key: SecretStr | None = Field(
        default=None,
        description="Bearer key sent to engines started with --api-key. Clients' keys never are.",
    )
    forward_headers: tuple[str, ...] = Field(
        default=("traceparent", "tracestate"),
        max_length=32,
        description="Request headers passed on to engines, beside X-Request-Id.",
    )


class RetrySettings(BaseModel):
    """What happens when an engine fails before the first byte; after it nothing is retried."""

    model_config = _STRICT

    attempts: int = Field(
        default=3,
        ge=1,
        le=16,
        description="Endpoints tried for one request, the first included. A request that kills "
        "engines must not visit them all.",
    )
    rest_first_s: float = Field(
        default=0.5,
        gt=0,
        description="Seconds an endpoint is avoided after it could not be reached, or was silent; "
        "doubles with each failure in a row.",
    )
    rest_most_s: float = Field(default=10.0, gt=0, description="Longest such rest, in seconds.")


class TokenSettings(BaseModel):
    """How prompts are tokenised, so that routing knows which blocks engines hold of them.

    Where a prompt's tokens are not known, or not in time, it is routed by an estimate.
    """

    model_config = _STRICT

    enabled: bool = Field(
        default=True,
        description="Tokenise where a model's files can be read; needs the extra `tokenizers`.",
    )
    folders: dict[str, Path] = Field(
        default_factory=dict,
        max_length=64,
        description="Folder of a model's tokenizer files, by the name clients use. Without it the "
        "path that its engines report is tried, and the hub's cache on this machine.",
    )
    threads: int = Field(
        default=2,
        ge=1,
        le=64,
        description="Threads that tokenise. About half a million new tokens per second each.",
    )
    waiting: int = Field(
        default=64,
        ge=1,
        le=65_536,
        description="Prompts being tokenised or waiting to be; beyond it the estimate is used.",
    )
    limit_ms: float = Field(
        default=50.0,
        gt=0,
        le=60_000,
        description="Milliseconds that a request waits for its tokens; then it is routed without, "
        "and its conversation's next turn finds them.",
    )
    inline_bytes: int = Field(
        default=1_024,
        ge=0,
        description="Bodies up to this long are tokenised at once, which holds up other requests "
        "for a third of a millisecond; handing one to a thread costs 0.1 ms of CPU time.",
    )
    body_bytes: int = Field(
        default=8 << 20,
        ge=1_024,
        description="Longer bodies are not tokenised: no context holds them.",
    )
    cache_bytes: int = Field(
        default=128 << 20,
        ge=1 << 20,
        description="Tokens and hashes of what was met before; about 8 bytes per token.",
    )


class RoutingSettings(BaseModel):
    """What is kept of routing decisions, and what they are compared with."""

    model_config = _STRICT

    decisions: int = Field(
        default=10_000,
        ge=0,
        le=10_000_000,
        description="Requests whose decisions are kept, to be explained; 0 keeps none.",
    )
    decisions_bytes: int = Field(
        default=16 << 20,
        ge=1 << 16,
        description="Memory that they may take; beyond it the oldest are forgotten sooner. "
        "16 MiB hold 10,000 requests over 4 endpoints, 6,800 over 8 and 800 over 100, "
        "placed by the default policy.",
    )
    shadow: str | None = Field(
        default=None,
        description="A second policy that is asked about every decision and never obeyed; "
        "`/headrace/v1/shadow` and metrics tell where it differs. Doubles the time of a decision.",
    )
    labels_header: str | None = Field(
        default=None,
        min_length=1,
        max_length=256,
        pattern=r"^[A-Za-z0-9-]+$",
        description="Request header that names the labels an endpoint must carry to serve it, as "
        "`key=value,key=value`. Unset: no header has a say. Whoever may send it chooses endpoints, "
        "so name one only where a proxy sets it, or clients are trusted.",
    )

    @field_validator("shadow")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None and name not in POLICIES:
            raise ValueError(f"unknown policy {name!r}; known: {', '.join(sorted(POLICIES))}")
        return name


class KvEventSettings(BaseModel):
    """How the KV events of engines are followed, which tell what their caches hold."""

    model_config = _STRICT

    lost_after_s: float = Field(
        default=0.5,
        gt=0,
        le=600,
        description="Seconds without a connection to an engine after which what it held is "
        "forgotten. Longer rides out network faults, and sends requests to a cache that a restart "
        "has emptied.",
    )
    replay_timeout_s: float = Field(
        default=3.0,
        gt=0,
        le=600,
        description="Seconds in which an engine must go on when asked for lost events again; then "
        "its part of the index is begun anew.",
    )
    check_up_s: float = Field(
        default=10.0,
        gt=0,
        le=3_600,
        description="Seconds between questions to an engine whether its last events were lost; "
        "bounds how long a loss that nothing follows goes unnoticed.",
    )
    hash_seeds: tuple[str, ...] = Field(
        default=("0", "42"),
        max_length=16,
        description="Values of PYTHONHASHSEED that engines may have been started with; vLLM starts "
        "its block hashes from it. One that is not here is routed by the estimate.",
    )


class SharingSettings(BaseModel):
    """How several gateways over the same engines tell each other of their requests in flight."""

    model_config = _STRICT

    redis_url: SecretStr | None = Field(
        default=None,
        description="Redis (5 or later, or Valkey) that all gateways over the same engines share: "
        "redis://, rediss:// or unix://. Unset: this gateway is the only one.",
    )
    channel: str = Field(
        default="headrace:reserves",
        min_length=1,
        max_length=256,
        description="Where gateways over the same engines meet; other fleets take other names.",
    )
    replica: str | None = Field(
        default=None,
        min_length=1,
        max_length=256,
        description="Name of this gateway, unlike any other's; unset: host name and port.",
    )
    share_ms: float = Field(
        default=10.0,
        ge=0,
        le=1_000,
        description="Least milliseconds between two messages; what happens meanwhile goes into "
        "one. Longer costs less and leaves gateways choosing the same engine unawares.",
    )
    heartbeat_ms: float = Field(
        default=50.0, gt=0, le=10_000, description="Longest milliseconds without a message."
    )
    lost_after_s: float = Field(
        default=2.0,
        gt=0,
        description="Seconds of silence after which a gateway's requests count as gone.",
    )
    answer_s: float = Field(
        default=1.0, gt=0, description="Seconds in which Redis must answer, or counts as down."
    )
    retry_most_s: float = Field(
        default=2.0, gt=0, description="Longest wait before connecting to Redis again, in seconds."
    )


class GatewaySettings(BaseModel):
    """The gateway process."""

    model_config = _STRICT

    host: str = Field(
        default="127.0.0.1",
        description="Address to listen on; 0.0.0.0 for all. Loopback unless you say otherwise.",
    )
    port: int = Field(default=8080, ge=0, le=65_535, description="Port; 0 takes any free one.")
    keys_file: Path | None = Field(
        default=None,
        description="File of API keys: one line per key, its SHA-256 in hex and a tenant's name. "
        "Without it anyone who can connect is served.",
    )
    log_requests: bool = Field(
        default=True,
        description="Write one line per request, at its end, with all there is to say.",
    )
    drain_s: float = Field(
        default=30.0,
        ge=0,
        description="Seconds that streams in flight may go on after the order to stop.",
    )
    limits: LimitSettings = Field(
        default_factory=LimitSettings, description="What clients may take."
    )
    upstream: UpstreamSettings = Field(
        default_factory=UpstreamSettings, description="How engines are talked to."
    )
    retry: RetrySettings = Field(default_factory=RetrySettings, description="What is tried again.")
    tokens: TokenSettings = Field(
        default_factory=TokenSettings, description="How prompts are tokenised."
    )
    routing: RoutingSettings = Field(
        default_factory=RoutingSettings, description="What is kept of routing decisions."
    )
    kv_events: KvEventSettings = Field(
        default_factory=KvEventSettings, description="How engines' KV events are followed."
    )
    sharing: SharingSettings = Field(
        default_factory=SharingSettings, description="How several gateways work as one."
    )
    adapters: AdapterSettings = Field(
        default_factory=AdapterSettings, description="LoRA adapters, loaded as requests ask."
    )
