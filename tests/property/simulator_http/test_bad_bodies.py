"""No body, whatever is in it, is answered with a server error or leaves anything behind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.simulator.config import SimulatorSettings
from headrace.simulator.http.adapters import Adapters
from headrace.simulator.http.app import App
from headrace.simulator.http.exchange import Exchange, HttpRequest
from headrace.simulator.http.host import Host, Pace
from headrace.simulator.http.prepare import Site
from kvcache.hashing import BlockHasher
from tests.support.json_values import nested

HEADERS = {b"content-type": b"application/json"}


class HurriedClock:
    """Ten seconds later each time it is asked, so that no step is ever waited for."""

    def __init__(self) -> None:
        self._now_s = 0.0

    def now_s(self) -> float:
        self._now_s += 10.0
        return self._now_s

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(0)


class Recorder:
    """Stands in for a connection."""

    def __init__(self) -> None:
        self.sent = b""
        self.keep_alive = True
        self.streaming = False
        self.ended = False
        self.write: Callable[[bytes], None] = self._write

    def _write(self, data: bytes) -> None:
        self.sent += data

    def exchange_ended(self) -> None:
        self.ended = True

    def abort(self) -> None:
        raise AssertionError("nothing is cut here")


def make_app() -> App:
    engine = SimulatorSettings.model_validate(
        {"engine": {"max_model_len": 256, "num_blocks": 64, "mean_output_tokens": 8}}
    ).engine
    spec = engine.spec(record_events=False)
    site = Site(
        ("m",), Adapters(("m",), enabled=True, limit=4), BlockHasher(16), spec.context_tokens, 8.0
    )
    host = Host(spec, HurriedClock(), Pace(max_lag_s=0.0))
    return App(site, host, None, {}, lambda fault: {"kind": fault.checked(1).kind})


async def answers(requests: list[tuple[str, bytes]]) -> list[bytes]:
    app = make_app()
    stepping = asyncio.create_task(app.host.run())
    lines = [Recorder() for _ in requests]
    for line, (path, body) in zip(lines, requests, strict=True):
        exchange = Exchange(line, chunked=False, head_only=False)
        app.handle(HttpRequest("POST", path, b"", HEADERS, body), exchange)
    for _ in range(20_000):
        if all(line.ended for line in lines):
            break
        await asyncio.sleep(0)
    stepping.cancel()
    await asyncio.wait([stepping])
    assert all(line.ended for line in lines)
    app.host.engine.check()
    assert app.host.queued == 0
    return [line.sent for line in lines]


PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/tokenize",
    "/detokenize",
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter",
    "/headrace/fault",
)
FIELDS = (
    *("model", "prompt", "messages", "max_tokens", "max_completion_tokens", "min_tokens", "n"),
    *("temperature", "top_p", "seed", "stop", "stream", "stream_options", "ignore_eos"),
    *("priority", "cache_salt", "request_id", "return_token_ids", "kv_transfer_params", "echo"),
    *("logprobs", "top_logprobs", "tools", "tool_choice", "response_format", "input", "tokens"),
    *("dimensions", "encoding_format", "lora_name", "lora_path", "kind", "rate", "engine"),
)
numbers = (
    st.integers(-3, 40)
    | st.sampled_from([2**31, 2**63, -(2**63), 2**64, 10**40, 1e308, -0.5, 0.5])
    | st.floats(allow_nan=False, allow_infinity=False)
)
scalars = (
    st.none() | st.booleans() | numbers | st.text(max_size=12) | st.sampled_from(["m", "auto"])
)
values = nested(scalars, FIELDS)
functions = st.fixed_dictionaries(
    {"type": st.just("function")},
    optional={
        "function": st.fixed_dictionaries({"name": st.just("f")}, optional={"parameters": values})
    },
)
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "tool", "?"])},
        optional={"content": values, "tool_calls": values},
    ),
    max_size=3,
)
likely = {
    "model": st.sampled_from(["m", "m", "m", "nope"]),
    "prompt": st.text(max_size=40) | st.lists(st.integers(0, 2**31), max_size=5),
    "messages": messages,
    "max_tokens": st.integers(1, 40),
    "min_tokens": st.integers(0, 20),
    "n": st.integers(1, 3),
    "stop": st.text(max_size=3) | st.lists(st.text(max_size=3), max_size=3),
    "stream": st.booleans(),
    "stream_options": st.fixed_dictionaries(
        {}, optional={"include_usage": st.booleans(), "continuous_usage_stats": st.booleans()}
    ),
    "ignore_eos": st.booleans(),
    "logprobs": st.integers(0, 3) | st.booleans(),
    "top_logprobs": st.integers(0, 3),
    "echo": st.booleans(),
    "return_token_ids": st.booleans(),
    "kv_transfer_params": st.dictionaries(
        st.sampled_from(["do_remote_prefill", "do_remote_decode", "remote_num_tokens"]), values
    ),
    "tools": st.lists(functions, max_size=2),
    "tool_choice": st.sampled_from(
        ["auto", "required", "none", {"type": "function", "function": {"name": "f"}}]
    ),
    "response_format": st.just({"type": "json_object"})
    | st.fixed_dictionaries(
        {"type": st.just("json_schema"), "json_schema": st.fixed_dictionaries({"schema": values})}
    ),
    "input": st.text(max_size=9) | st.lists(st.text(max_size=9), max_size=3),
    "tokens": st.lists(st.integers(-1, 2**31), max_size=4),
}
plausible = st.fixed_dictionaries({}, optional=likely)
twisted = st.tuples(plausible, st.dictionaries(st.sampled_from(FIELDS), values, max_size=3)).map(
    lambda pair: {**pair[0], **pair[1]}
)


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    body = encoded(draw(plausible))
    at = draw(st.integers(0, len(body)))
    return body[:at] + draw(st.binary(max_size=3)) + body[at + draw(st.integers(0, 2)) :]


bodies = (
    plausible.map(encoded)
    | twisted.map(encoded)
    | values.map(encoded)
    | damaged()
    | st.binary(max_size=30)
    | st.sampled_from([b"", b"[" * 3_000, b'{"a":' * 3_000, b"9" * 5000, b'"\xff"', b"NaN"])
)
requests = st.lists(st.tuples(st.sampled_from(PATHS), bodies), min_size=20, max_size=25)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(requests)
def test_no_body_is_answered_with_a_server_error(given_requests: list[tuple[str, bytes]]) -> None:
    told = asyncio.run(answers(given_requests))
    for (path, body), sent in zip(given_requests, told, strict=True):
        head, _, text = sent.partition(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        assert status in {200, 400, 404}, (path, body, sent)
        if status != 200:
            error = json.loads(text)["error"]
            assert error["code"] == status
            assert error["message"]
            assert "Traceback" not in error["message"]
            assert "headrace" not in error["message"]


words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
shared: dict[str, st.SearchStrategy[Any]] = {
    name: likely[name] for name in ("n", "ignore_eos", "return_token_ids")
} | {
    "model": st.just("m"),
    "max_tokens": st.integers(20, 40),
    "min_tokens": st.integers(0, 16),
    "stop": words | st.lists(words, max_size=3),
    "seed": st.integers(-(2**63), 2**63 - 1),
    "temperature": st.floats(0, 2),
    "cache_salt": words,
    "kv_transfer_params": st.just({"do_remote_prefill": True})
    | st.just({"do_remote_decode": True}),
}
streaming = st.sampled_from(
    [
        {},
        {"stream": True},
        {"stream": True, "stream_options": {"include_usage": True}},
        {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}},
    ]
)
sensible_chat = st.fixed_dictionaries(
    {
        "messages": st.lists(
            st.fixed_dictionaries(
                {"role": st.sampled_from(["system", "user", "assistant"]), "content": words}
            ),
            min_size=1,
            max_size=3,
        )
    },
    optional={**shared, "response_format": likely["response_format"]},
)
asked_logprobs = st.sampled_from([{}, {"logprobs": True}, {"logprobs": True, "top_logprobs": 20}])
tooled = st.sampled_from(["auto", "required", {"type": "function", "function": {"name": "f"}}])
tools = st.fixed_dictionaries(
    {"name": st.just("f")},
    optional={"parameters": st.just({}) | st.dictionaries(st.text(max_size=5), values, max_size=3)},
)
offers: st.SearchStrategy[dict[str, Any]] = st.just({}) | st.tuples(tools, tooled).map(
    lambda pair: {
        "tools": [{"type": "function", "function": pair[0]}],
        "tool_choice": pair[1],
        "max_tokens": 40,
    }
)
sensible_completion = st.fixed_dictionaries(
    {
        "prompt": words
        | st.lists(words, min_size=1, max_size=3)
        | st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=20)
    },
    optional={**shared, "logprobs": st.integers(0, 20), "echo": st.booleans()},
)
sensible = st.one_of(
    st.tuples(st.just(PATHS[0]), st.tuples(sensible_chat, asked_logprobs, offers, streaming)),
    st.tuples(st.just(PATHS[1]), st.tuples(sensible_completion, streaming)),
).map(lambda pair: (pair[0], {key: value for part in pair[1] for key, value in part.items()}))


def check_served(body: dict[str, Any], text: bytes) -> None:
    if not body.get("stream"):
        answer = json.loads(text)
        assert len(answer["choices"]) % body.get("n", 1) == 0
        assert all(choice["finish_reason"] for choice in answer["choices"])
        usage = answer["usage"]
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
        return
    events = [event.removeprefix("data: ") for event in text.decode().split("\n\n")]
    assert events[-2:] == ["[DONE]", ""]
    chunks = [json.loads(event) for event in events[:-2]]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    ended = [choice["index"] for choice in choices if choice["finish_reason"]]
    assert sorted(ended) == sorted({choice["index"] for choice in choices})
    if body.get("stream_options"):
        assert chunks[-1]["choices"] == []
        assert chunks[-1]["usage"]["completion_tokens"] >= len(ended)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(sensible, min_size=8, max_size=12))
def test_any_sensible_combination_of_fields_is_served(
    given_requests: list[tuple[str, dict[str, Any]]],
) -> None:
    told = asyncio.run(answers([(path, encoded(body)) for path, body in given_requests]))
    for (path, body), sent in zip(given_requests, told, strict=True):
        head, _, text = sent.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), (path, body, text)
        check_served(body, text)
