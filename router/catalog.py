"""The routing policies an operator may name. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from headrace.core.errors import ConfigError
from router.policies.expected_ttft import ExpectedTtft
from router.policies.least_requests import LeastRequests
from router.policies.random_choice import RandomChoice
from router.policies.round_robin import RoundRobin
from router.policy import Policy

DEFAULT_POLICY: Final = "expected-ttft"

POLICIES: Final[Mapping[str, Callable[[], Policy]]] = {
    DEFAULT_POLICY: ExpectedTtft,
    "least-requests": LeastRequests,
    "random": RandomChoice,
    "round-robin": RoundRobin,
}


def make_policy(name: str) -> Policy:
    """Build the policy called ``name``.

    Raises:
        ConfigError: if no policy has that name; the message lists those that exist.

    """
    try:
        return POLICIES[name]()
    except KeyError:
        known = ", ".join(sorted(POLICIES))
        raise ConfigError(f"unknown routing policy {name!r}; known: {known}") from None
