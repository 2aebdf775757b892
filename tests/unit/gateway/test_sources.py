from __future__ import annotations

import pytest

from gateway.sources import MAX_LABELS, MAX_LABELS_BYTES, Sources, labels_of, session_of, source_of
from gateway.tokens import ModelSource
from headrace.core.endpoint import EndpointView, ModelFiles
from headrace.core.errors import InvalidRequest
from headrace.core.ids import EndpointId, ModelName

BASE, ADAPTER = ModelName("base"), ModelName("ad")
NAME = b"x-labels"


def view(name: str, *models: ModelName, files: tuple[ModelFiles | None, ...] = ()) -> EndpointView:
    return EndpointView(EndpointId(name), f"http://{name}", models, files=files)


def test_the_most_explicit_session_header_wins_and_a_long_one_is_no_name() -> None:
    headers = {b"session-id": b"other", b"x-session-id": b"mine"}
    assert session_of(headers) == "mine"
    assert session_of({b"x-session-id": b"x" * 257, b"session-id": b"other"}) == "other"
    assert session_of({}) is None


def test_labels_are_pairs_parted_by_commas() -> None:
    assert labels_of({NAME: b"zone=a, tier = gold"}, NAME) == (("zone", "a"), ("tier", "gold"))
    assert labels_of({NAME: b"zone=a,zone=a"}, NAME) == (("zone", "a"),)


def test_no_header_has_a_say_unless_it_is_named() -> None:
    assert labels_of({NAME: b"zone=a", b"": b"zone=b"}, b"") == ()
    assert labels_of({}, NAME) == ()
    assert labels_of({NAME: b""}, NAME) == ()


@pytest.mark.parametrize(
    "value",
    [
        b"zone",
        b"=a",
        b"zone=",
        b"zone=a=b",
        b"zone=a,",
        b",",
        b"zone=a,zone=b",
        b"k=" + b"v" * MAX_LABELS_BYTES,
        b",".join(b"k%d=v" % number for number in range(MAX_LABELS + 1)),
    ],
)
def test_labels_of_another_form_are_refused_by_the_header_s_name(value: bytes) -> None:
    with pytest.raises(InvalidRequest, match="x-labels") as refused:
        labels_of({NAME: value}, NAME)
    assert refused.value.field == "x-labels"


def test_an_adapter_has_its_base_model_s_tokens() -> None:
    files = (ModelFiles("/models/base"), ModelFiles("/adapters/ad", parent=BASE))
    one = view("one", BASE, ADAPTER, files=files)
    assert source_of([one], BASE) == ModelSource(BASE, "/models/base")
    found = source_of([one], ADAPTER)
    assert found == ModelSource(BASE, "/models/base", lora_name="ad", lora_path="/adapters/ad")


def test_endpoints_that_disagree_on_a_model_s_files_tell_nothing() -> None:
    one = view("one", BASE, files=(ModelFiles("/models/a"),))
    two = view("two", BASE, files=(ModelFiles("/models/b"),))
    assert source_of([one, two], BASE) is None
    assert source_of([], BASE) is None


def test_sources_are_looked_up_again_once_endpoints_have_changed() -> None:
    serving: list[EndpointView] = []
    sources = Sources(lambda _: serving)
    assert sources.of(BASE) is None
    serving.append(view("one", BASE, files=(ModelFiles("/models/a"),)))
    assert sources.of(BASE) == ModelSource(BASE, "/models/a")
    serving[0] = view("one", BASE, files=(ModelFiles("/models/b"),))
    assert sources.of(BASE) == ModelSource(BASE, "/models/a")
    sources.forget()
    assert sources.of(BASE) == ModelSource(BASE, "/models/b")
