from __future__ import annotations

from dataclasses import replace

import pytest

from headrace.core.endpoint import EndpointView, EngineLoad, Health, ModelFiles
from headrace.core.errors import ConfigError
from headrace.core.ids import EndpointId, ModelName
from headrace.runtime.listing import LISTING_BYTES, read_listing, write_listing

VIEW = EndpointView(EndpointId("a"), "http://a:1", (ModelName("m"),))


@pytest.mark.parametrize(
    "text",
    [
        '{"endpoints": [{"url": "http://a:1/", "id": "a", "models": ["m"]}]}',
        "endpoints: [{url: http://a:1/, id: a, models: [m]}]",
        '{\n\t"endpoints": [\n\t\t{"url": "http://a:1", "id": "a", "models": ["m"]}\n\t]\n}\n',
        "# by hand\nendpoints:\n- url: http://a:1\n  id: a\n  models:\n  - m\n",
    ],
)
def test_it_is_json_or_yaml(text: str) -> None:
    assert read_listing(text.encode()) == [VIEW]


def test_only_what_differs_from_the_default_is_written() -> None:
    line = b'{"endpoints":[{"url":"http://a:1","id":"a","models":["m"]}]}\n'
    assert write_listing([VIEW]) == line
    assert read_listing(write_listing([])) == []


def test_what_each_reader_finds_out_by_itself_is_left_out() -> None:
    seen = replace(
        VIEW, health=Health.DOWN, load=EngineLoad(1, 2, 0.5, 3.0), files=(ModelFiles("/m"),)
    )
    assert write_listing([seen]) == write_listing([VIEW])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "endpoints: [{url: http://a:1}, {url: a:1}]",
            r"endpoints\[1\]\.url: expected http://HOST",
        ),
        ("endpoints: [{url: http://a:1, kv_events: {events: h:1}}]", r"\[0\]\.kv_events\.events: "),
        ("endpoints: [{url: http://a:1, prot: 1}]", r"endpoints\[0\]\.prot: unknown key"),
        ("endpoints: [{id: a}]", r"endpoints\[0\]\.url: field required"),
        ("endpoints: [{url: http://a:1}, {url: http://a:1}]", r"endpoints: 2 are called 'a:1'"),
        (
            "endpoints: [{url: http://a:1}, {url: http://a:1, id: b}]",
            r"endpoints: http://a:1 is given twice",
        ),
        ("endpoints: [{url: http://a:1, kv_tokens: 0}]", r"endpoints\[0\]\.kv_tokens: "),
        ("endpoints: 7", r"endpoints: "),
        ("", r"\(all\): "),
        ("[]", r"\(all\): "),
        ("{endpoints: [}", r"not YAML"),
        ("endpoints: []\nendpoints: []", r"'endpoints' appears twice"),
        ('{"endpoints": [], "endpoints": []}', r"'endpoints' appears twice"),
        ("\x00", r"not YAML"),
        ("x" * (LISTING_BYTES + 1), r"longer than 4194304 bytes"),
    ],
)
def test_what_is_wrong_is_told_by_endpoint_and_field(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        read_listing(text.encode())


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        read_listing(b"endpoints: [{url: a}, {url: http://a:1, role: cook}]")
    assert [line.partition(":")[0] for line in str(caught.value).splitlines()] == [
        "endpoints[0].url",
        "endpoints[1].role",
    ]
