from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from bench.gateway.process import StartError
from bench.routing_real import runs
from bench.routing_real.contenders import Engine, event_options, our_settings, write_tokenizer
from bench.routing_real.runs import engines_of, wait_for_text
from headrace.cli.config import FrontSettings
from headrace.core.endpoint import KvEventSource

ENGINES = [
    Engine("http://a:1", "tcp://a:2", "tcp://a:3"),
    Engine("http://b:1", "ipc://e", "ipc://r"),
]


def test_our_gateway_is_told_where_the_engines_are_and_what_they_publish() -> None:
    settings = FrontSettings.model_validate(yaml.safe_load(yaml.safe_dump(our_settings(ENGINES))))
    views = [endpoint.view() for endpoint in settings.endpoints]
    assert [view.url for view in views] == ["http://a:1", "http://b:1"]
    assert [view.kv_events for view in views] == [
        KvEventSource("tcp://a:2", "tcp://a:3"),
        KvEventSource("ipc://e", "ipc://r"),
    ]
    assert all(view.simulated for view in views)


def test_our_gateway_differs_from_its_defaults_in_nothing_but_the_engines() -> None:
    settings = FrontSettings.model_validate(our_settings(ENGINES))
    assert settings.model_copy(update={"endpoints": ()}) == FrontSettings()


def test_vllm_router_is_told_of_events_and_replay_of_every_engine() -> None:
    assert event_options(ENGINES, "m") == [
        *("--kv-event-model", "m"),
        *("--kv-event-source", "http://a:1=tcp://a:2"),
        *("--kv-event-replay-source", "http://a:1=tcp://a:3"),
        *("--kv-event-source", "http://b:1=ipc://e"),
        *("--kv-event-replay-source", "http://b:1=ipc://r"),
    ]


def test_a_tokenizer_folder_is_named_by_its_whole_path(tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path / "words")
    assert folder.is_absolute()
    assert (folder / "tokenizer.json").is_file()


def test_the_line_of_the_engines_names_them_all() -> None:
    line = (
        '{"event":"ready","engines":[{"index":0,"url":"http://a:1","kv_events":"tcp://a:2",'
        '"kv_replay":"tcp://a:3"}]}\n'
    )
    assert engines_of(line) == ENGINES[:1]


def test_a_line_counts_once_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    monkeypatch.setattr(runs, "START_S", 0.05)
    log.write_text("starting\n4 of 4 are rea")
    with pytest.raises(StartError, match="us did not come up"):
        wait_for_text(log, "4 of 4", "us")
    log.write_text("starting\n4 of 4 are ready\n")
    assert wait_for_text(log, "4 of 4", "us") == "4 of 4 are ready\n"
    assert wait_for_text(log, "", "others") == ""
