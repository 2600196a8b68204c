"""Fixtures for crash tests: the sandbox behind proxies that can kill the process that sends a request."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox import Sandbox
from tests.support.proxied_sandbox import ProxiedSandbox


@pytest.fixture
def world(sandbox: Sandbox, tmp_path: Path) -> Iterator[ProxiedSandbox]:
    """Put proxies in front of S3 and the provider; processes write their logs to the test's `tmp_path`."""
    with ProxiedSandbox(sandbox, tmp_path) as world:
        yield world
