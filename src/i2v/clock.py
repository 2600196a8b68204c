"""The clocks of this host. Ages of objects are S3's business: no host's clock decides about them."""

import time
from datetime import UTC, datetime, timedelta


def boot_time() -> float:
    """Return a monotonic time in seconds that also advances while the machine sleeps, if the system has one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def today_utc(after: timedelta = timedelta(0)) -> str:
    """Return the UTC day, e.g. `2026-11-22`, or that of a time after now."""
    return (datetime.now(UTC) + after).date().isoformat()
