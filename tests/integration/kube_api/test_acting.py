"""What decisions say is written once, though it is decided again before a watch has shown it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from controller.acting import Acting, batches
from controller.models.state import Create, Delete, SetStatus, Tell
from controller.recent import UNSEEN_S
from headrace.service.kube.api import Api
from headrace.service.kube.errors import KubeFailed, KubeForbidden
from headrace.service.kube.events import Recorder
from headrace.service.kube.resource import MODEL_SERVICES, PODS, Object, key_of
from headrace.service.kube.writes import Writes
from tests.support.fake_kube import FakeKube


class Time:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.at_s = 0.0

    def now_s(self) -> float:
        return self.at_s

    async def sleep(self, delay_s: float) -> None:
        self.at_s += delay_s


class Told(Recorder):
    """Remembers what was told."""

    def __init__(self, writes: Writes) -> None:
        super().__init__(writes)
        self.messages: list[str] = []

    def event(self, obj: Object, kind_type: str, reason: str, message: str) -> None:
        self.messages.append(f"{kind_type} {reason} {message}")


@pytest.fixture
def clock() -> Time:
    return Time()


@pytest.fixture
def told(api: Api) -> Told:
    return Told(Writes(api))


@pytest.fixture
def acting(api: Api, told: Told, clock: Time) -> Acting:
    return Acting(Writes(api, clock=clock), told, clock)


@pytest.fixture
def service(kube: FakeKube) -> dict[str, Any]:
    return kube.put(MODEL_SERVICES, {"metadata": {"namespace": "ns", "name": "m"}, "spec": {}})


POD: Object = {"kind": "Pod", "metadata": {"namespace": "ns", "name": "p"}, "spec": {}}
DONE = Tell(warning=False, reason="RolloutComplete", message="all 2 are of revision a")


async def test_news_decided_again_from_an_old_status_is_told_once(
    acting: Acting, told: Told, service: dict[str, Any], clock: Time
) -> None:
    await acting.act(service, (SetStatus({"readyReplicas": 2}), DONE))
    await acting.act(service, (SetStatus({"readyReplicas": 3}), DONE))
    assert told.messages == ["Normal RolloutComplete all 2 are of revision a"]
    clock.at_s += UNSEEN_S
    await acting.act(service, (DONE,))
    assert len(told.messages) == 2


async def test_other_news_for_the_same_reason_is_told_at_once(
    acting: Acting, told: Told, service: dict[str, Any]
) -> None:
    back = Tell(warning=False, reason=DONE.reason, message="all 2 are of revision b")
    await acting.act(service, (DONE, back, DONE))
    assert [message[-1] for message in told.messages] == ["a", "b", "a"]


async def test_a_pod_shown_and_gone_before_its_answer_was_read_is_made_again(
    acting: Acting, service: dict[str, Any], kube: FakeKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = Writes.create

    async def slow(self: Writes, *what: Any) -> dict[str, Any]:
        made = await create(self, *what)
        acting.seen(PODS, key_of(POD))  # the watch was faster
        return made

    with monkeypatch.context() as patched:
        patched.setattr(Writes, "create", slow)
        await acting.act(service, (Create(POD),))
    kube.remove(PODS, key_of(POD))
    await acting.act(service, (Create(POD),))
    assert key_of(POD) in kube.store.all(PODS)


async def test_a_write_that_failed_is_made_again(
    acting: Acting, service: dict[str, Any], kube: FakeKube
) -> None:
    kube.fail(1, 500, plural="pods")
    with pytest.raises(KubeFailed):
        await acting.act(service, (Create(POD),))
    await acting.act(service, (Create(POD),))
    assert key_of(POD) in kube.store.all(PODS)


async def test_a_write_no_watch_has_shown_yet_is_not_made_twice(
    acting: Acting, service: dict[str, Any], kube: FakeKube, written: Callable[[], int]
) -> None:
    await acting.act(service, (Create(POD), SetStatus({"replicas": 1})))
    writes = written()
    await acting.act(service, (Create(POD), SetStatus({"replicas": 1})))
    assert written() == writes


@pytest.fixture
def written(api: Api) -> Callable[[], int]:
    return lambda: api.writes


def _pod(number: int) -> Object:
    return {"kind": "Pod", "metadata": {"namespace": "ns", "name": f"p-{number}"}, "spec": {}}


def test_replicas_go_side_by_side_in_growing_batches_and_all_else_by_itself() -> None:
    stored = Create({"kind": "ControllerRevision", "metadata": {"name": "r"}})
    made = [Create(_pod(number)) for number in range(20)]
    gone = [Delete("Pod", f"old-{number}", "u") for number in range(4)]
    status = SetStatus({})
    found = [list(batch) for batch in batches((stored, *made, *gone, status, DONE))]
    assert [len(batch) for batch in found] == [1, 1, 2, 4, 8, 5, 1, 2, 1, 1, 1]
    assert [action for batch in found for action in batch] == [stored, *made, *gone, status, DONE]


async def test_where_a_replica_is_refused_no_more_than_its_batch_is_asked_for(
    acting: Acting, service: dict[str, Any], kube: FakeKube, api: Api
) -> None:
    kube.fail(100, 403, "Forbidden", plural="pods")
    before = api.writes
    with pytest.raises(KubeForbidden):
        await acting.act(service, (*(Create(_pod(n)) for n in range(20)), SetStatus({})))
    assert api.writes == before + 1


async def test_a_failure_in_a_batch_leaves_the_others_of_it_made_and_ends_there(
    acting: Acting, service: dict[str, Any], kube: FakeKube
) -> None:
    await acting.act(service, (Create(_pod(0)),))
    kube.fail(1, 500, plural="pods")
    rest = tuple(Create(_pod(number)) for number in range(8))
    with pytest.raises(KubeFailed):
        await acting.act(service, (*rest, SetStatus({"replicas": 8})))
    assert len(kube.store.all(PODS)) == 2
    await acting.act(service, (*rest, SetStatus({"replicas": 8})))
    assert len(kube.store.all(PODS)) == 8


@asynccontextmanager
async def _writing(acting: Acting) -> AsyncIterator[None]:
    running = asyncio.create_task(acting.statuses.run())
    try:
        async with asyncio.timeout(5.0):
            yield
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def _written(kube: FakeKube, acting: Acting) -> dict[str, Any]:
    while len(acting.statuses):  # noqa: ASYNC110 -- the answer is read after the store has changed
        await asyncio.sleep(0.005)
    found: dict[str, Any] = kube.store.all(MODEL_SERVICES)["ns", "m"].get("status", {})
    return found


async def test_of_several_statuses_only_the_latest_is_written_and_once(
    acting: Acting, service: dict[str, Any], kube: FakeKube, written: Callable[[], int]
) -> None:
    for ready in (1, 2, 3):
        await acting.act(service, (SetStatus({"readyReplicas": ready}),))
    assert written() == 0
    async with _writing(acting):
        assert await _written(kube, acting) == {"readyReplicas": 3}
        assert written() == 1
        await acting.act(service, (SetStatus({"readyReplicas": 3}),))
        assert await _written(kube, acting) == {"readyReplicas": 3}
        assert written() == 1, "no watch has shown it yet, but it is there"


async def test_what_a_service_remembers_counts_before_it_is_written(
    acting: Acting, service: dict[str, Any], kube: FakeKube
) -> None:
    assert acting.statuses.known(service) == service
    await acting.act(service, (SetStatus({"readyReplicas": 1}),))
    assert acting.statuses.known(service)["status"] == {"readyReplicas": 1}
    another = {**service, "metadata": {**service["metadata"], "uid": "of another"}}
    assert acting.statuses.known(another) == another
    async with _writing(acting):
        await _written(kube, acting)
    assert acting.statuses.known(service) == service


async def test_a_status_that_failed_is_written_again_and_one_of_nobody_is_dropped(
    acting: Acting, service: dict[str, Any], kube: FakeKube
) -> None:
    kube.fail(1, 500, plural="modelservices")
    gone = {"metadata": {"namespace": "ns", "name": "gone", "uid": "u"}}
    await acting.act(service, (SetStatus({"readyReplicas": 1}),))
    await acting.act(gone, (SetStatus({"readyReplicas": 1}),))
    async with _writing(acting):
        assert await _written(kube, acting) == {"readyReplicas": 1}


async def test_who_leads_no_more_remembers_no_status(
    acting: Acting, service: dict[str, Any]
) -> None:
    async with _writing(acting):
        await asyncio.sleep(0)
        await acting.act(service, (SetStatus({"readyReplicas": 1}),))
    assert acting.statuses.known(service) == service
