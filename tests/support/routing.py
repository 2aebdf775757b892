"""Endpoints, requests and routers of round numbers, for tests of the router."""

from __future__ import annotations

from dataclasses import replace

from headrace.core.endpoint import BlockScheme, EndpointView, EngineLoad, Health, Role, Speed
from headrace.core.ids import BlockHash, EndpointId, ModelName, RequestId
from headrace.core.request import RouteRequest
from router.held import HoldLimits
from router.router import Options, Router
from router.speed import EVEN_TOKENS

A, B, C = EndpointId("a"), EndpointId("b"), EndpointId("c")
M = ModelName("m")
SPEED = Speed(prefill_tokens_per_s=10_000.0, kv_tokens=100_000)
SCHEME = BlockScheme(16, "sha256_cbor")
BLOCK = 16


def view(
    endpoint: EndpointId,
    *models: str,
    health: Health = Health.READY,
    role: Role = Role.BOTH,
    speed: Speed = SPEED,
    load: EngineLoad | None = None,
    loadable: tuple[str, ...] = (),
    labels: tuple[tuple[str, str], ...] = (),
) -> EndpointView:
    return EndpointView(
        endpoint,
        f"http://{endpoint}",
        tuple(ModelName(name) for name in models) or (M,),
        health=health,
        role=role,
        speed=speed,
        load=load,
        loadable=tuple(ModelName(name) for name in loadable),
        labels=labels,
    )


def engine_blocks(tokens: int, head: int = 0) -> list[int]:
    """Hashes of a prompt's full engine blocks; prompts of one head share all they both have."""
    return [1_000_000 * (head + 1) + i for i in range(tokens // BLOCK)]


def request(
    name: str,
    tokens: int = 1_024,
    head: int = 0,
    *,
    model: str = M,
    told: bool = False,
    output: int | None = None,
    session: str | None = None,
    priority: int = 0,
    labels: tuple[tuple[str, str], ...] = (),
) -> RouteRequest:
    """A prompt whose blocks are those of every other of that ``head``, as far as both reach.

    ``told``: whether it was tokenised, so that its engine blocks are known.
    """
    made = RouteRequest(
        RequestId(name),
        ModelName(model),
        tokens,
        tuple(BlockHash(head * 100_000 + i) for i in range(tokens // BLOCK)),
        block_tokens=float(BLOCK),
        max_output_tokens=output,
        session=session,
        priority=priority,
        labels=labels,
    )
    return replace(made, engine_blocks={SCHEME: engine_blocks(tokens, head)}) if told else made


def router(
    *views: EndpointView,
    policy: str = "expected-ttft",
    seed: int = 1,
    hold: HoldLimits | None = None,
) -> Router:
    """A router over ``views``, or over A and B."""
    made = Router(policy, Options(seed=seed, hold=hold or HoldLimits()))
    made.set_endpoints(views or (view(A), view(B)))
    return made


def prefill_s(tokens: int) -> float:
    """What SPEED is presumed to need for a prompt: when its first token comes, nothing is learned."""
    return (15.0 + tokens * 0.1 + tokens * tokens / 2 * 0.1 / EVEN_TOKENS) / 1_000.0


def load(running: int, waiting: int, at_s: float, kv_used_ratio: float = 0.0) -> EngineLoad:
    return EngineLoad(running, waiting, kv_used_ratio, at_s)
