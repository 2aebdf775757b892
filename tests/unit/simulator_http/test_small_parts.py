"""Adapters, faults, tools, log probabilities, errors: the parts a table or two can check."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import msgspec
import pytest

from headrace.simulator.http.adapters import Adapters
from headrace.simulator.http.errors import ApiError, invalid, not_decoded, prompt_too_long
from headrace.simulator.http.faults import FaultRequest, Faults, Kind
from headrace.simulator.http.logprobs import chat_entry, completion_logprobs
from headrace.simulator.http.tools import formatted, instance_of, tool_call
from headrace.simulator.http.wire import ChatRequest, CompletionRequest, read, read_prompts


def test_an_adapter_loaded_again_has_a_new_number() -> None:
    adapters = Adapters(["m"], enabled=True, limit=2)
    adapters.load("a", "/1")
    adapters.load("a", "/2", inplace=True)
    adapter = adapters.get("a")
    assert adapter is not None
    assert (adapter.path, adapter.number) == ("/2", 2)


@pytest.mark.parametrize(
    ("name", "path", "status"),
    [("m", "/x", 400), ("a", "/x", 400), ("", "/x", 400), ("n", "/missing", 404), ("n", "/x", 400)],
)
def test_adapters_that_cannot_be_loaded_are_refused(name: str, path: str, status: int) -> None:
    adapters = Adapters(["m"], enabled=True, limit=1)
    adapters.load("a", "/1")
    with pytest.raises(ApiError) as refused:
        adapters.load(name, path)
    assert refused.value.status == status
    assert [adapter.name for adapter in adapters.loaded()] == ["a"]


KINDS: list[tuple[Kind, str]] = [
    ("hang", "hung"),
    ("slow", "slow_factor"),
    ("error", "error_rate"),
    ("cut_stream", "cut_rate"),
    ("drop_events", "drop_events_rate"),
    ("reorder_events", "reorder_events_rate"),
]


@pytest.mark.parametrize(("kind", "field"), KINDS)
def test_each_fault_begins_and_ends_alone(kind: Kind, field: str) -> None:
    faults = Faults()
    faults.apply(FaultRequest(kind=kind))
    changed = [name for _, name in KINDS if getattr(faults, name) != getattr(Faults(), name)]
    assert changed == [field]
    faults.end(kind)
    assert getattr(faults, field) == getattr(Faults(), field)


def test_clear_ends_every_fault() -> None:
    faults = Faults()
    for kind, _ in KINDS:
        faults.apply(FaultRequest(kind=kind))
    faults.apply(FaultRequest(kind="clear"))
    assert [getattr(faults, name) for _, name in KINDS] == [
        getattr(Faults(), name) for _, name in KINDS
    ]


def test_faults_with_a_rate_strike_at_that_rate_and_without_one_never_draw() -> None:
    faults, rng = Faults(), Random(1)
    state = rng.getstate()
    assert faults.refuse(rng) is None
    assert faults.cut_at(rng) is None
    assert rng.getstate() == state
    faults.apply(FaultRequest(kind="error", rate=0.25, status=502))
    refused = [faults.refuse(rng) for _ in range(4_000)]
    assert sum(error is not None for error in refused) == pytest.approx(1_000, rel=0.1)
    assert {error.status for error in refused if error is not None} == {502}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({}, {}),
        (None, {}),
        ({"type": "string"}, "text"),
        ({"type": "integer", "minimum": 5}, 5),
        ({"type": ["number", "null"]}, 1.5),
        ({"enum": ["x", "y"]}, "x"),
        ({"const": 3}, 3),
        ({"anyOf": [{"type": "boolean"}]}, True),
        ({"type": "array"}, []),
        (
            {"properties": {"a": {"type": "string"}, "b": {"type": "null"}}, "required": ["b"]},
            {"b": None},
        ),
        ({"properties": {"a": {"properties": {"c": {"type": "integer"}}}}}, {"a": {"c": 1}}),
        ({"properties": 5, "type": 7}, {}),
    ],
)
def test_a_schema_has_an_instance(schema: object, value: object) -> None:
    assert instance_of(schema) == value


def test_a_schema_that_nests_without_end_has_an_end() -> None:
    schema: dict[str, Any] = {"properties": {}}
    schema["properties"]["deeper"] = schema
    assert len(json.dumps(instance_of(schema))) < 500


TOOLS = [{"type": "function", "function": {"name": "f"}}]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"tool_choice": "required"}, "`tools` must be set"),
        ({"tools": TOOLS, "tool_choice": {"type": "function"}}, "does not match any"),
        ({"tools": TOOLS, "tool_choice": {"function": {"name": "g"}}}, "does not match any"),
        ({"tools": TOOLS}, '"auto" tool choice requires'),
        ({"tools": TOOLS, "tool_choice": "sometimes"}, "does not match any"),
    ],
)
def test_a_tool_choice_that_cannot_be_is_refused(fields: dict[str, Any], told: str) -> None:
    request = msgspec.convert({"messages": []} | fields, ChatRequest)
    with pytest.raises(ApiError, match=told):
        tool_call(request, auto_allowed=False)


def test_a_response_format_is_kept_to() -> None:
    assert formatted(None) is None
    assert formatted({"type": "text"}) is None
    assert formatted({"type": "json_object"}) == b"{}"
    schema = {"properties": {"ü": {"const": "é"}}}
    made = formatted({"type": "json_schema", "json_schema": {"schema": schema}})
    assert made is not None
    assert made.isascii()
    assert json.loads(made) == {"ü": "é"}


def test_log_probabilities_fall_with_rank_and_their_tokens_differ() -> None:
    entry = chat_entry(b" the", 3, 20)
    top = entry["top_logprobs"]
    assert len({alternative["token"] for alternative in top}) == len(top) == 20
    assert [a["logprob"] for a in top] == sorted((a["logprob"] for a in top), reverse=True)
    told = completion_logprobs([b" abc", b" def"], 0, 2, 5)
    assert told["text_offset"] == [5, 9]
    assert [len(alternatives) for alternatives in told["top_logprobs"]] == [2, 2]


@pytest.mark.parametrize(
    ("body", "param", "told"),
    [
        (b'{"messages": [', "body.14", "JSON decode error"),
        (b'{"messages": x}', "body.13", "JSON decode error"),
        (b"{}", "body.messages", "Field required"),
        (b'{"messages": [{}]}', "body.messages[0].role", "Field required"),
        (b'{"messages": [], "n": "x"}', "body.n", "Expected `int | null`"),
        (b'{"messages": [{"role": "\xff"}]}', "body.29", "JSON decode error"),
        (b"[]", "body", "Expected `object`"),
    ],
)
def test_a_body_that_does_not_parse_is_told_where(body: bytes, param: str, told: str) -> None:
    with pytest.raises(ApiError) as refused:
        read(ChatRequest, body)
    assert (refused.value.status, refused.value.param) == (400, param)
    assert refused.value.message.startswith("1 validation error:\n  {")
    assert told in refused.value.message


def test_numbers_may_come_as_strings_and_what_is_unknown_is_ignored() -> None:
    request = read(CompletionRequest, b'{"max_tokens": "5", "prompt": "x", "novel": {"a": [1]}}')
    assert request.max_tokens == 5


@pytest.mark.parametrize(
    ("raw", "prompts"),
    [
        (b'"a"', ["a"]),
        (b"[1, 2]", [[1, 2]]),
        (b'["a", "b"]', ["a", "b"]),
        (b"[[1], [2, 3]]", [[1], [2, 3]]),
        (b"[]", [[]]),
    ],
)
def test_prompts_come_in_four_forms(raw: bytes, prompts: list[object]) -> None:
    assert read_prompts(msgspec.Raw(raw), "prompt") == prompts


@pytest.mark.parametrize("raw", [b"5", b'[1, "a"]', b'{"a": 1}', b"[[[1]]]", b"[1.5]"])
def test_other_forms_of_a_prompt_are_refused(raw: bytes) -> None:
    with pytest.raises(ApiError, match="expected text"):
        read_prompts(msgspec.Raw(raw), "prompt")


def test_nesting_without_end_is_told() -> None:
    assert "nested too deeply" in not_decoded(RecursionError()).message


def test_error_bodies_have_vllms_form() -> None:
    assert json.loads(prompt_too_long(4096, 4097).body()) == {
        "error": {
            "message": "This model's maximum context length is 4096 tokens. However, your prompt "
            "contains at least 4097 input tokens, which exceeds this limit even without any output "
            "tokens. Please reduce the length of the input prompt. (parameter=input_tokens, "
            "value=4097)",
            "type": "BadRequestError",
            "param": "input_tokens",
            "code": 400,
        }
    }
    assert invalid("missing", "x", "Field required").message == (
        "1 validation error:\n  {'type': 'missing', 'loc': 'body.x', 'msg': 'Field required'}"
    )
