"""The automation on docs/events.md works with this version of Prefect."""

from __future__ import annotations

import json

from prefect.events import EventTrigger

from tests.support.documents import code_blocks


def test_prefect_accepts_the_example_trigger() -> None:
    """Prefect reads the example as a trigger on stored videos."""
    (example,) = [json.loads(block.text) for block in code_blocks("json") if block.page == "docs/events.md"]

    assert EventTrigger.model_validate(example).expect == {"i2v.job.stored"}
