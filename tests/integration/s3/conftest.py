"""Another S3 server for the contract tests: Ceph's gateway."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support.ceph_server import CephServer, missing


@pytest.fixture(scope="session")
def ceph_server() -> Iterator[CephServer]:
    """Start Ceph (15 s) on first use, in `make test-ceph` only."""
    if not os.environ.get("TEST_CEPH"):
        pytest.skip("make test-ceph runs these")
    if reason := missing():
        pytest.skip(reason)
    with CephServer() as server:
        yield server
