"""The queue against a model too simple to be wrong."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from headrace.service.kube.backoff import Backoff
from headrace.service.kube.workqueue import Queue

KEYS = st.sampled_from("abcd")
BACKOFF = Backoff(1.0, 4.0)


class QueueMachine(RuleBasedStateMachine):
    """Model: per key, whether it is wanted, at work, wanted again, due, and how often it failed."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: Queue[str] = Queue(BACKOFF)
        self.now_s = 0.0
        self.wanted: list[str] = []
        self.at_work: set[str] = set()
        self.wanted_again: list[str] = []
        self.due_s: dict[str, float] = {}
        self.failures: dict[str, int] = {}

    def _want(self, key: str) -> None:
        if key in self.at_work:
            if key not in self.wanted_again:
                self.wanted_again.append(key)
        elif key not in self.wanted:
            self.wanted.append(key)

    def _end(self, key: str) -> None:
        self.at_work.remove(key)
        if key in self.wanted_again:
            self.wanted_again.remove(key)
            self.wanted.append(key)

    @rule(key=KEYS)
    def add(self, key: str) -> None:
        self.queue.add(key, self.now_s)
        self._want(key)

    @rule(key=KEYS, delay_s=st.integers(0, 5))
    def add_at(self, key: str, delay_s: int) -> None:
        due_s = self.now_s + delay_s
        self.queue.add_at(key, due_s)
        self.due_s[key] = min(due_s, self.due_s.get(key, due_s))

    @rule(passed_s=st.integers(1, 3))
    def time_passes(self, passed_s: int) -> None:
        self.now_s += passed_s

    @rule()
    def take(self) -> None:
        taken = self.queue.take(self.now_s)
        for key in [key for key, due_s in self.due_s.items() if due_s <= self.now_s]:
            del self.due_s[key]
            self._want(key)
        if taken is None:
            assert not self.wanted
            return
        key, waited_s = taken
        assert waited_s >= 0
        assert key in self.wanted
        assert key not in self.at_work
        self.wanted.remove(key)
        self.at_work.add(key)
        self.due_s.pop(key, None)

    @rule(key=KEYS)
    def done(self, key: str) -> None:
        if key in self.at_work:
            self.queue.done(key)
            self.failures.pop(key, None)
            self._end(key)

    @rule(key=KEYS)
    def failed(self, key: str) -> None:
        if key in self.at_work:
            wait_s = self.queue.failed(key, self.now_s)
            self.failures[key] = self.failures.get(key, 0) + 1
            assert wait_s == min(4.0, 2.0 ** (self.failures[key] - 1))
            due_s = self.now_s + wait_s
            self.due_s[key] = min(due_s, self.due_s.get(key, due_s))
            self._end(key)

    @rule(key=KEYS)
    def put_back(self, key: str) -> None:
        if key in self.at_work:
            self.queue.put_back(key, self.now_s)
            self._want(key)
            self._end(key)

    @invariant()
    def they_agree(self) -> None:
        assert len(self.queue) == len(self.wanted)
        assert self.queue.working == len(self.at_work)
        assert self.queue.next_due_s() == min(self.due_s.values(), default=None)


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
