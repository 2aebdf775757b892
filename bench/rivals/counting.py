"""What counts requests at most: round robin, random, power of two, least requests. Pure."""

from __future__ import annotations

from typing_extensions import override

from bench.rivals.rival import Choice, Known, Rule
from headrace.core.request import RouteRequest


class RoundRobin(Rule):
    """Each endpoint in turn."""

    def __init__(self, known: Known) -> None:
        self._size = known.size
        self._next = 0

    @override
    def choose(self, request: RouteRequest, now_s: float) -> Choice:
        index = self._next
        self._next = (index + 1) % self._size
        return Choice(index)


class Uniform(Rule):
    """Any endpoint."""

    def __init__(self, known: Known) -> None:
        self._known = known

    @override
    def choose(self, request: RouteRequest, now_s: float) -> Choice:
        return Choice(self._known.rng.randrange(self._known.size))


class PowerOfTwo(Rule):
    """The one of two random endpoints with fewer requests in flight, the first when equal.

    Source: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", IEEE TPDS 2001;
    the default of Ray Serve, and ``power_of_two`` of SMG and AIBrix.
    """

    def __init__(self, known: Known) -> None:
        self._known = known

    @override
    def choose(self, request: RouteRequest, now_s: float) -> Choice:
        known, counts = self._known, self._known.counts()
        drawn = known.rng.sample(range(known.size), min(2, known.size))
        return Choice(min(drawn, key=counts.__getitem__))


class LeastRequests(Rule):
    """The endpoint with the fewest requests in flight, counted by the router itself.

    Source: AIBrix ``least-request`` (algorithms/least_request.go, v0.7); any load balancer.
    """

    def __init__(self, known: Known) -> None:
        self._known = known

    @override
    def choose(self, request: RouteRequest, now_s: float) -> Choice:
        return Choice(self._known.lowest(self._known.counts()))
