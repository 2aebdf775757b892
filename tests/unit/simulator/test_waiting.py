from __future__ import annotations

from headrace.core.ids import RequestId
from headrace.simulator.requests import EngineRequest
from headrace.simulator.sequence import Sequence
from headrace.simulator.waiting import FcfsQueue, PriorityQueue


def waiting(number: int, priority: int = 0) -> Sequence:
    request = EngineRequest(RequestId(str(number)), 1, 1, priority=priority)
    return Sequence(request, number, float(number))


def test_first_come_is_first_served_and_what_comes_back_goes_to_the_front() -> None:
    queue = FcfsQueue()
    a, b, c, d = (waiting(number) for number in range(4))
    queue.push(a)
    queue.push(b)
    queue.put_back([c, d])
    assert list(queue) == [c, d, a, b]
    queue.remove(d)
    assert queue.peek() is c
    assert [queue.pop() for _ in range(3)] == [c, a, b]
    assert len(queue) == 0


def test_priority_comes_before_arrival_and_what_comes_back_keeps_its_rank() -> None:
    queue = PriorityQueue()
    low, high, later = waiting(0, 5), waiting(1, 1), waiting(2, 1)
    for sequence in (low, later):
        queue.push(sequence)
    queue.put_back([high])
    assert list(queue) == [high, later, low]
    queue.remove(later)
    assert queue.peek() is high
    assert [queue.pop(), queue.pop()] == [high, low]
    assert len(queue) == 0
