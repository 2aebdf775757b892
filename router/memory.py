"""What a policy's costs depend on beside its arguments. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, Protocol, runtime_checkable

from router.policy import Policy

NO_MEMORY: Final[Mapping[str, object]] = MappingProxyType({})
"""What a policy without options and without a past remembers."""


@runtime_checkable
class Remembering(Protocol):
    """A policy whose costs depend on more than its arguments: on options, or on its past."""

    def memory(self) -> Mapping[str, object]:
        """Return all that its next costs depend on, as plain JSON values."""
        ...

    def recall(self, memory: Mapping[str, object]) -> None:
        """Take up a memory as returned by ``memory``, in place of its own."""
        ...


def memory_reader(policy: Policy) -> Callable[[], Mapping[str, object]]:
    """Return what to call before each decision to learn what ``policy`` remembers.

    To be kept: asking whether a policy remembers takes longer than asking what.
    """
    return policy.memory if isinstance(policy, Remembering) else lambda: NO_MEMORY
