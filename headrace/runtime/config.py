"""Settings of the engine's side."""

from __future__ import annotations

from collections import Counter
from typing import Final, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from headrace.core.endpoint import EndpointView, Health, KvEventSource, Role, Speed
from headrace.core.ids import EndpointId, ModelName

_SPEED: Final = Speed()

MAX_LISTED: Final = 4_096
"""Most endpoints that a list may name."""


class ProbeSettings(BaseModel):
    """How endpoints are watched. Durations in seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    period_s: float = Field(
        default=1.0,
        ge=0.05,
        le=60,
        description="Between two looks at an endpoint. A vLLM /metrics page costs it 6 ms.",
    )
    starting_period_s: float = Field(
        default=0.1,
        ge=0.01,
        le=60,
        description="The same while it is not ready: this is added to every cold start.",
    )
    timeout_s: float = Field(
        default=2.0,
        gt=0,
        le=60,
        description="For /health, /v1/models and /metrics. vLLM answers in 11 ms under load.",
    )
    failures_to_down: int = Field(
        default=3,
        ge=1,
        le=100,
        description="Failed looks in a row after which an endpoint is down; fewer would drop a "
        "busy engine for one slow answer. A refused connection counts as all of them.",
    )
    generate_timeout_s: float = Field(
        default=60.0,
        gt=0,
        le=600,
        description="For the one token an endpoint must generate before it is ready: the first "
        "request of a cold engine may compile.",
    )
    stall_s: float = Field(
        default=60.0,
        gt=0,
        le=3_600,
        description="An endpoint that has requests running and reports no step and no token for "
        "this long is down, whatever its /health says. Longer than any one step.",
    )
    measure_tokens: int = Field(
        default=1_024,
        ge=0,
        le=65_536,
        description="Length of the prompt that measures a new endpoint's prefill speed, once, "
        "before it is ready; 0 keeps the presumed speed.",
    )
    concurrency: int = Field(
        default=32, ge=1, le=1_024, description="Looks in flight at once, over all endpoints."
    )
    measured_at_once: int = Field(
        default=2,
        ge=1,
        le=64,
        description="Endpoints that are being made ready at once: engines that share a machine "
        "would otherwise measure each other.",
    )
    page_limit_bytes: int = Field(
        default=4 << 20, ge=1_024, le=1 << 28, description="Longest page or reply that is read."
    )


class KvEventAddresses(BaseModel):
    """Where an engine publishes its KV events (vLLM's --kv-events-config)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    events: str = Field(
        pattern=r"^(tcp|ipc)://.",
        description="Of its PUB socket, as seen from here: tcp://HOST:PORT or ipc://PATH. Of a "
        "data parallel rank vLLM adds the rank to the port.",
    )
    replay: str | None = Field(
        default=None,
        pattern=r"^(tcp|ipc)://.",
        description="Of its replay socket (replay_endpoint). Without one every lost batch begins "
        "the endpoint's part of the index anew.",
    )
    topic: str = Field(default="", description="Prefix of the topics to follow.")


class EndpointSettings(BaseModel):
    """An engine that runs elsewhere. What it serves, and how fast, it is asked for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(description="http://HOST:PORT, or https://; what stands before /v1.")
    id: str | None = Field(
        default=None,
        min_length=1,
        max_length=256,
        description="Name in metrics and decisions; default: host and port, and rank.",
    )
    models: tuple[str, ...] = Field(
        default=(),
        max_length=1_024,
        description="Names it serves, as far as they are to be known before it has answered: until "
        "then requests for them get 503 instead of 404.",
    )
    role: Role = Field(
        default=Role.BOTH,
        description="prefill: only computes prompts for those that are decode or both.",
    )
    labels: dict[str, str] = Field(
        default_factory=dict,
        max_length=16,
        description="What requests may ask for; see gateway.routing.labels_header.",
    )
    loadable: tuple[str, ...] = Field(
        default=(),
        max_length=10_000,
        description="Adapters that it loads by itself when a request names one it does not have.",
    )
    dp_rank: int | None = Field(
        default=None,
        ge=0,
        le=4_096,
        description="Data parallel rank: give one endpoint per rank, all with one url.",
    )
    kv_events: KvEventAddresses | None = Field(
        default=None,
        description="Where it tells what it holds. Unset: that is estimated.",
    )
    simulated: bool = Field(
        default=False, description="Whether it is one of our simulated engines."
    )
    draining: bool = Field(
        default=False,
        description="Whether it is about to go: its streams go on, it gets no new request.",
    )
    prefill_tokens_per_s: float = Field(
        default=_SPEED.prefill_tokens_per_s,
        gt=0,
        description="Prompt tokens that it computes per second, before that was measured.",
    )
    kv_tokens: int = Field(
        default=_SPEED.kv_tokens,
        gt=0,
        description="Tokens that its KV cache holds, before it was asked.",
    )
    fetch_tokens_per_s: float = Field(
        default=_SPEED.fetch_tokens_per_s,
        gt=0,
        description="Tokens per second that it brings back from a lower cache tier.",
    )
    transfer_tokens_per_s: float = Field(
        default=_SPEED.transfer_tokens_per_s,
        gt=0,
        description="Tokens per second whose KV it takes from another endpoint.",
    )
    adapter_load_ms: float = Field(
        default=_SPEED.adapter_load_ms,
        ge=0,
        description="Milliseconds in which it loads an adapter, download included, before any "
        "load was timed.",
    )
    adapter_swap_ms: float = Field(
        default=_SPEED.adapter_swap_ms,
        ge=0,
        description="Milliseconds for which it stands still to bring an adapter that it knows into "
        "a slot.",
    )
    sequences: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="Requests that it computes at once (vLLM's --max-num-seqs). Unset: found out "
        "once so many run and others wait.",
    )
    adapter_slots: int | None = Field(
        default=None,
        ge=0,
        le=4_096,
        description="Adapters that it can have in one step (vLLM's --max-loras); 0: it takes none. "
        "Unset: gateway.adapters.slots.",
    )
    adapter_rank: int | None = Field(
        default=None,
        ge=1,
        le=4_096,
        description="Widest adapter that it takes (vLLM's --max-lora-rank). Unset: any.",
    )
    adapter_room: int | None = Field(
        default=None,
        ge=0,
        le=100_000,
        description="Adapters that it may know at once, as its sidecar bounds them "
        "(`engine.adapters`). Unset: gateway.adapters.per_endpoint alone.",
    )
    runtime_url: str | None = Field(
        default=None,
        description="http://HOST:PORT of the sidecar beside it, which loads its adapters. Unset: "
        "the gateway does that itself.",
    )

    @field_validator("url", "runtime_url")
    @classmethod
    def _is_url(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
            raise ValueError(f"expected http://HOST:PORT, found {url!r}")
        if parts.username is not None or parts.password is not None:
            raise ValueError("no user or password here: gateway.upstream.key is sent to engines")
        return url.rstrip("/")

    @field_validator("labels")
    @classmethod
    def _can_be_asked_for(cls, labels: dict[str, str]) -> dict[str, str]:
        for word in (*labels, *labels.values()):
            if not word or word != word.strip() or "," in word or "=" in word:
                raise ValueError(f"{word!r}: no header could ask for it")
        return labels

    @property
    def name(self) -> EndpointId:
        """What it is called."""
        rank = "" if self.dp_rank is None else f"/{self.dp_rank}"
        return EndpointId(self.id or urlsplit(self.url).netloc + rank)

    def view(self) -> EndpointView:
        """Return what is known of it before anyone has looked."""
        events = self.kv_events
        return EndpointView(
            self.name,
            self.url,
            tuple(ModelName(name) for name in self.models),
            role=self.role,
            health=Health.DRAINING if self.draining else Health.READY,
            speed=Speed(**{name: getattr(self, name) for name in Speed.__slots__}),
            kv_events=None if events is None else KvEventSource(**events.model_dump()),
            loadable=tuple(ModelName(name) for name in self.loadable),
            labels=tuple(sorted(self.labels.items())),
            dp_rank=self.dp_rank,
            simulated=self.simulated,
            runtime_url=self.runtime_url,
            adapter_slots=self.adapter_slots,
            adapter_rank=self.adapter_rank,
            adapter_room=self.adapter_room,
        )

    @classmethod
    def of(cls, view: EndpointView) -> Self:
        """Return what makes the same view; its load, its files and whether it is down are left out.

        Those are for each who looks to find out.
        """
        same = ("url", "role", "models", "loadable", "dp_rank", "simulated", "runtime_url")
        of_adapters = ("adapter_slots", "adapter_rank", "adapter_room")
        events = view.kv_events
        return cls(
            id=view.endpoint_id,
            draining=view.health is Health.DRAINING,
            labels=dict(view.labels),
            kv_events=None
            if events is None
            else KvEventAddresses(events=events.events, replay=events.replay, topic=events.topic),
            **{name: getattr(view, name) for name in (*same, *of_adapters)},
            **{name: getattr(view.speed, name) for name in Speed.__slots__},
        )


def told_apart(endpoints: tuple[EndpointSettings, ...]) -> tuple[EndpointSettings, ...]:
    """Return the endpoints of a list.

    Raises:
        ValueError: when two have one name, or are one place.

    """
    names = Counter(endpoint.name for endpoint in endpoints)
    places = Counter((endpoint.url, endpoint.dp_rank) for endpoint in endpoints)
    for name, count in names.items():
        if count > 1:
            raise ValueError(f"{count} are called {name!r}")
    for (url, rank), count in places.items():
        if count > 1 or (rank is not None and places[url, None]):
            raise ValueError(f"{url} is given twice; data parallel ranks need dp_rank each")
    return endpoints
