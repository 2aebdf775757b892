"""JSON that a client might send where it should not, for the property tests of every HTTP surface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy


def nested(scalars: SearchStrategy[Any], fields: Sequence[str]) -> SearchStrategy[Any]:
    """Lists and objects of ``scalars``, a few levels deep, with known ``fields`` among the names."""
    return st.recursive(
        scalars,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.sampled_from(fields) | st.text(max_size=6), inner, max_size=4)
        ),
        max_leaves=8,
    )
