"""One cluster and one installation for the whole suite; files run in the order of their names."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.kube.counted import Counted
from tests.e2e.kube.stack import Stack
from tests.kube.given import some_cluster


@pytest.fixture(scope="session")
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """Headrace installed by its chart on two real nodes."""
    with some_cluster(request, nodes=2) as cluster:
        made = Stack(cluster)
        try:
            made.install()
            yield made
        finally:
            made.close()


@pytest.fixture(scope="session")
def counted() -> Iterator[Counted]:
    """What the suite counts; written to ``bench/results`` at the end when all of it ran."""
    made = Counted()
    yield made
    made.write()
