"""How things stand, in Prefect's UI: `publish_status` makes the page `i2v-open`, after each look at what is open."""

from __future__ import annotations

import logging

from i2v.errors import I2vError
from i2v.pipeline.run import Run
from i2v.recovery.status import read_status, status_page
from prefect_support.artifacts_api import create_page

log = logging.getLogger(__name__)
KEY = "i2v-open"


async def publish_status(run: Run) -> None:
    """Put the page among Prefect's artifacts; what cannot be read now is shown the next time."""
    try:
        standing = await read_status(run)
    except I2vError as error:
        log.warning("how things stand cannot be shown: %s", error)
        return
    await create_page(KEY, status_page(standing), about=standing.summary)
