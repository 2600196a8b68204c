"""`i2v run` advises batches."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from i2v.cli.prefect.flow_run import FlowRunMonitor
from i2v.cli.progress import Progress
from i2v.pipeline.events import ImagesCounted


@pytest.mark.parametrize(("images", "says"), [(1000, False), (1001, True)])
def test_a_plain_run_of_many_images_says_that_batches_exist(images: int, says: bool) -> None:
    """Above a thousand images in one process there is a hint, and no more than that."""
    console = Console(file=StringIO())
    FlowRunMonitor(Progress(console)).on_event(ImagesCounted(images))
    assert ("--batch spreads them" in str(console.file.getvalue())) is says  # type: ignore[attr-defined]
