"""The sandbox behind tollgates for the tests of this tier."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox import Sandbox
from tests.support.proxied_sandbox import ProxiedSandbox


@pytest.fixture
def world(sandbox: Sandbox, tmp_path: Path) -> Iterator[ProxiedSandbox]:
    """The sandbox behind two tollgates; processes leave their logs in the test's own folder."""
    with ProxiedSandbox(sandbox, tmp_path) as world:
        yield world
