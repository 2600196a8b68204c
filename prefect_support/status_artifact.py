"""The ledger's status in Prefect's UI: the artifact `i2v-open`, created at the end of each reconcile."""

import logging

from i2v.errors import I2vError
from i2v.pipeline.context import RunContext
from i2v.recovery.status import read_status, status_page
from prefect_support.artifacts_api import create_page

log = logging.getLogger(__name__)
KEY = "i2v-open"


async def publish_status(run: RunContext) -> None:
    """Create the next version of the artifact. If the status cannot be read, log it: the next reconcile tries again."""
    try:
        status = await read_status(run)
    except I2vError as error:
        log.warning("cannot read the ledger's status: %s", error)
        return
    await create_page(KEY, status_page(status), description=status.summary)
