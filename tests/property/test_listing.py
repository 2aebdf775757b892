"""A list of endpoints survives being written and read again."""

from __future__ import annotations

import json

import yaml
from hypothesis import given
from hypothesis import strategies as st

from headrace.core.endpoint import EndpointView, Health, KvEventSource, Role, Speed
from headrace.core.ids import EndpointId, ModelName
from headrace.runtime.listing import read_listing, write_listing

words = st.text("abcxyz019-_.é ", min_size=1, max_size=8).filter(lambda word: word == word.strip())
names = st.lists(words.map(ModelName), max_size=3).map(tuple)
rates = st.floats(min_value=1e-3, max_value=1e9)
waits = st.floats(min_value=0, max_value=1e6)
addresses = st.integers(1, 65_535).map(lambda port: f"tcp://10.0.0.7:{port}")


@st.composite
def lists(draw: st.DrawFn) -> list[EndpointView]:
    ids = draw(st.lists(st.text(min_size=1, max_size=8), max_size=5, unique=True))
    return [view(draw, index, EndpointId(name)) for index, name in enumerate(sorted(ids))]


def view(draw: st.DrawFn, index: int, endpoint_id: EndpointId) -> EndpointView:
    return EndpointView(
        endpoint_id,
        f"http://10.0.0.7:{8_000 + index}",
        draw(names),
        role=draw(st.sampled_from(Role)),
        health=draw(st.sampled_from([Health.READY, Health.DRAINING])),
        speed=draw(st.builds(Speed, rates, st.integers(1, 10**9), rates, rates, waits, waits)),
        kv_events=draw(
            st.none() | st.builds(KvEventSource, addresses, st.none() | addresses, words)
        ),
        loadable=draw(names),
        labels=tuple(sorted(draw(st.dictionaries(words, words, max_size=3)).items())),
        dp_rank=draw(st.none() | st.integers(0, 7)),
        simulated=draw(st.booleans()),
        runtime_url=draw(st.none() | st.just("https://[fd00::7]:8081")),
        adapter_slots=draw(st.none() | st.integers(0, 64)),
        adapter_rank=draw(st.none() | st.integers(1, 64)),
        adapter_room=draw(st.none() | st.integers(0, 64)),
    )


@given(lists())
def test_what_was_written_is_read_again(views: list[EndpointView]) -> None:
    text = write_listing(views)
    assert text.endswith(b"\n")
    assert text.count(b"\n") == 1
    assert read_listing(text) == views


@given(lists())
def test_yaml_says_the_same(views: list[EndpointView]) -> None:
    text = yaml.safe_dump(json.loads(write_listing(views)), allow_unicode=False)
    assert read_listing(text.encode()) == views
