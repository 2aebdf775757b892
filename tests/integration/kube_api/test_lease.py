"""The lease as an object of an API server."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from random import Random

import pytest

from headrace.service.clock import RealClock
from headrace.service.kube.api import Api
from headrace.service.kube.errors import KubeConflict, KubeExists
from headrace.service.kube.lease import Lease, Terms, claimed
from headrace.service.kube.lease_shell import Elector, KubeLeases, own_name
from headrace.service.kube.resource import LEASES
from tests.support.fake_kube import FakeKube

TERMS = Terms(duration_s=3, renew_s=2.0, retry_s=0.05)
KEY = ("ns", "leader")


async def test_of_two_writes_from_the_same_version_one_succeeds(api: Api) -> None:
    leases = KubeLeases(api, *KEY)
    assert await leases.read() is None
    made = await leases.write(claimed(None, "a", TERMS, "2026-11-24T12:00:00.000000Z"))
    with pytest.raises(KubeExists):
        await leases.write(claimed(None, "b", TERMS, "2026-11-24T12:00:00.000000Z"))
    renewed = await leases.write(made)
    assert renewed.version != made.version
    with pytest.raises(KubeConflict):
        await leases.write(replace(made, holder="b"))
    assert await leases.read() == renewed


async def test_one_of_two_leads_and_hands_over_at_once_when_it_stops(
    kube: FakeKube, api: Api
) -> None:
    began: asyncio.Queue[str] = asyncio.Queue()

    def candidate() -> asyncio.Task[None]:
        me = own_name()
        elector = Elector(KubeLeases(api, *KEY), me, TERMS, RealClock(), Random(1))

        async def work() -> None:
            assert elector.leads
            began.put_nowait(me)
            await asyncio.Event().wait()

        return asyncio.create_task(elector.run(work), name=me)

    candidates = [candidate(), candidate()]
    async with asyncio.timeout(10):
        first = await began.get()
        assert kube.store.get(LEASES, KEY)["spec"]["holderIdentity"] == first
        (leader,) = (task for task in candidates if task.get_name() == first)
        leader.cancel()
        assert await began.get() != first
    for task in candidates:
        task.cancel()
    await asyncio.wait(candidates)
    spec = kube.store.get(LEASES, KEY)["spec"]
    assert (spec["holderIdentity"], spec["leaseTransitions"]) == ("", 1)


async def test_a_server_that_answers_errors_ends_leadership_and_a_better_one_restores_it(
    kube: FakeKube, api: Api
) -> None:
    terms = Terms(duration_s=1, renew_s=0.3, retry_s=0.05)
    elector = Elector(KubeLeases(api, *KEY), "a", terms, RealClock(), Random(1))
    told: asyncio.Queue[bool] = asyncio.Queue()

    async def work() -> None:
        told.put_nowait(True)
        try:
            await asyncio.Event().wait()
        finally:
            told.put_nowait(False)

    task = asyncio.create_task(elector.run(work))
    async with asyncio.timeout(10):
        assert await told.get() is True
        kube.fail(12, 503, "ServiceUnavailable", plural="leases")
        assert await told.get() is False
        assert await told.get() is True
    task.cancel()
    await asyncio.wait([task])
    assert await KubeLeases(api, *KEY).read() == Lease(
        "", 1, 0, None, kube.store.get(LEASES, KEY)["metadata"]["resourceVersion"]
    )
