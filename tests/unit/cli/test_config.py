from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from headrace.cli.config import FrontSettings, RouterSettings, UpSettings
from headrace.core.endpoint import EndpointView, Health, KvEventSource, Role, Speed
from headrace.core.ids import EndpointId, ModelName
from headrace.runtime.listing import read_listing
from kvcache.index import IndexLimits
from router.held import HoldLimits
from router.router import Options


def test_what_nobody_sets_is_what_the_router_does_by_itself() -> None:
    assert RouterSettings().options() == Options(hold=HoldLimits(), index=IndexLimits())


def test_every_setting_reaches_the_router() -> None:
    settings = UpSettings.model_validate(
        {
            "router": {
                "policy": "least-requests",
                "seed": 7,
                "index_blocks": 9_000,
                "hold": {"requests": 0, "longest_s": 2, "queue_ms": 300, "kv_ratio": 0.5},
            }
        }
    ).router
    options = settings.options(time_scale=5.0)
    assert options.hold == HoldLimits(requests=0, longest_s=2.0, queue_ms=300.0, kv_ratio=0.5)
    assert options.index == IndexLimits(blocks=9_000)
    assert (options.seed, options.time_scale) == (7, 5.0)
    assert settings.router().policy_name == "least-requests"


def front(*endpoints: dict[str, object]) -> FrontSettings:
    return FrontSettings.model_validate({"endpoints": endpoints})


def test_an_endpoint_needs_no_more_than_a_url() -> None:
    (endpoint,) = front({"url": "http://10.0.0.7:8000/"}).endpoints
    assert endpoint.view() == EndpointView(
        EndpointId("10.0.0.7:8000"), "http://10.0.0.7:8000", models=()
    )


def test_all_that_is_said_of_an_endpoint_reaches_the_router() -> None:
    (endpoint,) = front(
        {
            "url": "https://engines.internal/pool",
            "models": ["m"],
            "role": "decode",
            "labels": {"zone": "a", "tier": "gold"},
            "loadable": ["ad"],
            "dp_rank": 3,
            "kv_events": {"events": "tcp://h:5560", "replay": "tcp://h:5660", "topic": "kv"},
            "simulated": True,
            "fetch_tokens_per_s": 1,
            "transfer_tokens_per_s": 2,
            "adapter_load_ms": 3,
            "adapter_swap_ms": 4,
            "prefill_tokens_per_s": 5,
            "kv_tokens": 6,
            "draining": True,
        }
    ).endpoints
    assert endpoint.view() == EndpointView(
        EndpointId("engines.internal/3"),
        "https://engines.internal/pool",
        (ModelName("m"),),
        role=Role.DECODE,
        health=Health.DRAINING,
        speed=Speed(5.0, 6, 1.0, 2.0, 3.0, 4.0),
        kv_events=KvEventSource("tcp://h:5560", "tcp://h:5660", "kv"),
        loadable=(ModelName("ad"),),
        labels=(("tier", "gold"), ("zone", "a")),
        dp_rank=3,
        simulated=True,
    )


@pytest.mark.parametrize(
    ("endpoints", "told"),
    [
        (({"url": "http://a:1"}, {"url": "http://a:1/"}), "are called 'a:1'"),
        (({"url": "http://a:1"}, {"url": "http://a:1", "id": "b"}), "given twice"),
        (({"url": "http://a:1"}, {"url": "http://a:1", "dp_rank": 0}), "given twice"),
        (({"url": "http://a:1", "id": "x"}, {"url": "http://b:1", "id": "x"}), "are called 'x'"),
        (({"url": "http://me:secret@a:1"},), "gateway.upstream.key"),
        (({"url": "a:1"},), "expected http://HOST:PORT"),
        (({"url": "http://a:1", "kv_events": {"events": "h:5560"}},), "kv_events.events"),
        (({"url": "http://a:1", "labels": {"": "x"}},), "labels"),
        (({"url": "http://a:1", "labels": {"zone": "a,b"}},), "labels"),
    ],
)
def test_endpoints_that_cannot_be_told_apart_or_reached_stop_the_start(
    endpoints: tuple[dict[str, object], ...], told: str
) -> None:
    with pytest.raises(ValidationError, match=told):
        front(*endpoints)


def test_ranks_of_one_engine_are_endpoints_of_their_own() -> None:
    settings = front(*({"url": "http://a:1", "dp_rank": rank} for rank in range(2)))
    assert [endpoint.name for endpoint in settings.endpoints] == ["a:1/0", "a:1/1"]


def test_the_files_in_the_documentation_are_some() -> None:
    page = (Path(__file__).parents[3] / "docs/operate/engines.md").read_text()
    of_settings, of_endpoints = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    settings = FrontSettings.model_validate(yaml.safe_load(of_settings))
    assert [endpoint.dp_rank for endpoint in settings.endpoints] == [None, 0, 1]
    listed = read_listing(of_endpoints.encode())
    assert [view.health for view in listed] == [Health.READY, Health.DRAINING]


def test_pods_are_found_everywhere_unless_a_namespace_is_named() -> None:
    found = FrontSettings.model_validate({"discovery": {"kind": "kubernetes"}}).discovery
    assert (found.namespace, found.label_selector) == ("", "headrace.dev/model-service")


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"discovery": {"namespace": "a"}}, "namespace: for discovery.kind kubernetes"),
        (
            {"discovery": {"kind": "kubernetes"}, "endpoints": [{"url": "http://h:1"}]},
            "endpoints are for discovery.kind list",
        ),
        ({"discovery": {"kind": "file"}}, "path: needed for discovery.kind file"),
        ({"discovery": {"kind": "socket", "address": "h:1", "path": "s"}}, "address: for .* ray"),
        ({"discovery": {"path": "s"}}, "path: for discovery.kind file or socket"),
        (
            {"discovery": {"kind": "file", "path": "f"}, "endpoints": [{"url": "http://h:1"}]},
            "endpoints are for discovery.kind list",
        ),
        ({"discovery": {"kind": "kubernetes", "namespace": "A_b"}}, "namespace"),
        ({"discovery": {"kind": "kubernetes", "label_selector": ""}}, "label_selector"),
    ],
)
def test_a_way_to_find_engines_that_would_be_ignored_is_refused(
    values: dict[str, object], why: str
) -> None:
    with pytest.raises(ValidationError, match=why):
        FrontSettings.model_validate(values)
