"""The cluster that all tests here share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.cluster_world import ClusterWorld, cluster_world


@pytest.fixture(scope="session")
def world(no_outside: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterWorld]:
    """Start everything once; it takes a minute."""
    with cluster_world(tmp_path_factory.mktemp("cluster")) as made:
        yield made
