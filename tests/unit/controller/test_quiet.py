from __future__ import annotations

from dataclasses import dataclass, replace

from controller.fleets.quiet import EngineCount
from headrace.core.endpoint import EndpointView, EngineLoad
from headrace.core.ids import EndpointId
from headrace.runtime.discovery import ListSource

A, B = EndpointId("a"), EndpointId("b")
SETTLE_S = 2.0


@dataclass
class At:
    s: float = 100.0

    def now_s(self) -> float:
        return self.s

    async def sleep(self, delay_s: float) -> None:
        self.s += delay_s


@dataclass
class Engines:
    clock: At
    source: ListSource
    count: EngineCount

    def report(self, running: int, waiting: int, at_s: float, of: EndpointId = A) -> int:
        self.clock.s = max(self.clock.s, at_s)
        view = self.source.get(of) or EndpointView(of, f"http://{of}:1", ())
        self.source.put(replace(view, load=EngineLoad(running, waiting, 0.0, at_s)))
        return self.count(of)


def engines(settle_s: float = SETTLE_S) -> Engines:
    clock, source = At(), ListSource()
    count = EngineCount(clock, settle_s)
    count.watch(source)
    return Engines(clock, source, count)


def test_an_endpoint_that_is_not_there_has_nothing_in_hand() -> None:
    assert engines().count(A) == 0


def test_reports_from_before_it_was_announced_do_not_count() -> None:
    seen = engines()
    assert seen.report(0, 0, 90.0) == 1, "asked for the first time at 100"
    assert seen.report(0, 0, 99.9) == 1
    seen.source.put(EndpointView(B, "http://b:1", ()))
    assert seen.count(B) == 1, "it has not reported at all"


def test_it_must_have_been_idle_without_a_break_for_the_settle_time() -> None:
    seen = engines()
    assert seen.count(A) == 0
    assert seen.report(2, 1, 100.0) == 3
    assert seen.report(0, 0, 101.0) == 1
    assert seen.report(0, 0, 102.9) == 1
    assert seen.report(1, 0, 103.0) == 1
    assert seen.report(0, 0, 104.0) == 1
    assert seen.report(0, 0, 105.9) == 1
    assert seen.report(0, 0, 106.0) == 0


def test_time_that_passes_without_a_report_shows_nothing() -> None:
    seen = engines()
    assert seen.report(0, 0, 100.0) == 1
    seen.clock.s = 200.0
    assert seen.count(A) == 1
    assert seen.report(0, 0, 199.0) == 0


def test_endpoints_are_counted_side_by_side() -> None:
    seen = engines()
    seen.report(0, 0, 100.0)
    seen.report(0, 0, 100.0, B)
    assert seen.report(0, 0, 102.0) == 0
    assert seen.report(0, 0, 102.0, B) == 0


def test_without_a_settle_time_one_idle_report_is_enough() -> None:
    assert engines(0.0).report(0, 0, 100.0) == 0
