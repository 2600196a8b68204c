"""Fixtures for tests that start flow runs without the generate flow."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture
def collect_prefect_sockets(ignore_sockets_left_open_by_prefect: None) -> Iterator[None]:
    """Collect the sockets that Prefect leaves open while their warnings are ignored, and not in a later test."""
    yield
    gc.collect()
