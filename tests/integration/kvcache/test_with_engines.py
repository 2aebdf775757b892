"""What the index says of simulated engines over HTTP is what they then report as cached."""

from __future__ import annotations

from functools import partial
from random import Random

import aiohttp

from headrace.core.endpoint import BlockScheme, KvEventSource
from headrace.core.ids import EndpointId
from headrace.service.clock import RealClock
from headrace.service.settings import load_settings
from headrace.simulator.config import SimulatorSettings
from headrace.simulator.http.fleet import EngineInfo, Fleet
from headrace.simulator.http.text import encode
from kvcache.hashing import BlockHasher, external
from kvcache.index import Held
from tests.support.kv_events import Eventually, StartWatch, Watch

SCHEME = BlockScheme(16, "sha256_cbor")
SETTINGS = {
    "count": 2,
    "time_scale": 50.0,
    "engine.max_model_len": 1024,
    "engine.num_blocks": 80,  # three conversations: the fourth evicts the first
    "kv_events.enabled": True,
}


def blocks(text: str) -> list[int]:
    hasher = BlockHasher(SCHEME.block_tokens, "sha256_cbor")
    return [external(digest) for digest in hasher.hashes(encode(text.encode()))]


def predicted(watch: Watch, engine: int, prompt: str) -> int:
    """Return the cached tokens that an engine should report; the last token is always computed."""
    names = blocks(prompt)
    usable = (len(encode(prompt.encode())) - 1) // SCHEME.block_tokens
    found = watch.index.longest_prefix({SCHEME: names[:usable]}, 0.0)
    held = found.get(EndpointId(str(engine)))
    return 0 if held is None else held.gpu_blocks * SCHEME.block_tokens


def holds(watch: Watch, engine: int, names: list[int]) -> bool:
    """Whether all that a reply computed is in the index; what it evicted was published before."""
    held = watch.index.longest_prefix({SCHEME: names}, 0.0).get(EndpointId(str(engine)))
    return held == Held(len(names), len(names))


async def complete(http: aiohttp.ClientSession, info: EngineInfo, prompt: str) -> tuple[str, int]:
    body = {"model": "Llama-3.1-8B", "prompt": prompt, "max_tokens": 20, "ignore_eos": True}
    async with http.post(f"{info.url}/v1/completions", json=body) as answer:
        assert answer.status == 200, await answer.text()
        told = await answer.json()
    cached = (told["usage"]["prompt_tokens_details"] or {}).get("cached_tokens", 0)
    return told["choices"][0]["text"], cached


async def test_predicted_cached_tokens_are_those_reported(
    start_watch: StartWatch, eventually: Eventually
) -> None:
    settings = load_settings(SimulatorSettings, None, SETTINGS)
    rng = Random(5)
    watch = await start_watch()
    async with (
        Fleet(settings, RealClock()) as fleet,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as http,
    ):
        infos = fleet.infos()
        sources = {str(i.index): KvEventSource(i.kv_events or "", i.kv_replay) for i in infos}
        watch.follow(**sources)
        await eventually(lambda: all(watch.connected(name) for name in sources))
        talks = [f"{number:04d}" * 60 for number in range(4)]
        hits = 0
        for _ in range(60):
            number, engine = rng.randrange(len(talks)), rng.randrange(2)
            prompt = talks[number]
            want = predicted(watch, engine, prompt)
            text, cached = await complete(http, infos[engine], prompt)
            assert cached == want
            hits += cached > 0
            talks[number] = prompt + text + "more" * 5 if len(prompt) < 2_000 else prompt[:240]
            computed = blocks(prompt + text)[: (len(encode((prompt + text).encode())) - 1) // 16]
            await eventually(partial(holds, watch, engine, computed))
        assert hits > 20
        assert watch.index.scheme_of(EndpointId("0")) == SCHEME
