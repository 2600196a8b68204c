"""The spend report in Prefect's UI: the artifact `i2v-spend`, with a chart that is stored beside the ledger."""

import asyncio
import logging

from i2v.errors import I2vError
from i2v.ledger import keys
from i2v.reports.spend import SpendReport, month_days, sum_groups
from i2v.reports.spend_chart import draw_spend
from i2v.reports.spend_page import spend_page
from i2v.s3.storage import Storage
from i2v.settings import Settings
from prefect_support.artifacts_api import create_page

log = logging.getLogger(__name__)
KEY = "i2v-spend"


async def publish_spend(storage: Storage, settings: Settings, report: SpendReport) -> None:
    """Create the next version of the artifact."""
    chart = await _chart_url(storage, settings, report)
    with_links = spend_page(report, chart) if chart else None
    await create_page(KEY, spend_page(report), description=report.summary, with_links=with_links)


async def _chart_url(storage: Storage, settings: Settings, report: SpendReport) -> str | None:
    """Store the month's chart and return a presigned link; `None` if links are off or there is nothing to draw."""
    month = sum_groups(report.month)
    if not settings.link_seconds or not (month.total_usd or month.saved_usd):
        return None
    days = month_days(report.until)
    uri = keys.spend_chart_uri(settings, days[-1])
    try:
        await storage.put(uri, await asyncio.to_thread(draw_spend, report.month, days), content_type="image/png")
        return await storage.presign(uri, seconds=settings.link_seconds)
    except I2vError as error:
        log.warning("the spend chart was not stored: %s", error)
        return None
