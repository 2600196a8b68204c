"""The sandbox behind tollgates for the tests of this tier."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox import Sandbox
from tests.support.crash_world import Tolled


@pytest.fixture
def world(sandbox: Sandbox, tmp_path: Path) -> Iterator[Tolled]:
    """The sandbox behind two tollgates; processes leave their logs in the test's own folder."""
    with Tolled(sandbox, tmp_path) as world:
        yield world
