"""Names of runs, such as `12 images · images/cats/ · standard 6 s · 10:42:07 UTC`.

The door names the runs it starts, so that its log and Prefect's UI show the same name. Other runs set their own name.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from os.path import commonprefix
from urllib.parse import urlsplit

from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import InputItem
from i2v.request import Mode

LOCATION_MAX_CHARS = 80


def run_name(items: Sequence[InputItem], default: RequestOptions, *, dry_run: bool = False) -> str:
    """Return the number of images, their location, and the request."""
    count = "1 image" if len(items) == 1 else f"{len(items):,} images"
    return " · ".join([count, _location(items), _request(items, default), *(["dry run"] if dry_run else [])])


def with_time(name: str, at: datetime) -> str:
    """Return the name with a time, which tells two runs of the same images apart."""
    return f"{name} · {at.astimezone(UTC):%H:%M:%S} UTC"


def _location(items: Sequence[InputItem]) -> str:
    locations = [item.ref.uri.key if item.ref.uri else urlsplit(item.ref.label).netloc for item in items]
    shared = commonprefix(locations)  # noqa: RUF071 - S3 keys are not paths: `a//b` differs from `a/b`
    if shared not in locations:
        shared = shared[: shared.rfind("/") + 1]
    shown = shared or "several locations"
    return shown if len(shown) <= LOCATION_MAX_CHARS else f"…{shown[1 - LOCATION_MAX_CHARS :]}"


def _request(items: Sequence[InputItem], default: RequestOptions) -> str:
    distinct = {item.options.over(default).model_copy(update={"prompt": None}) for item in items}
    if len(distinct) != 1:
        return "several requests"
    (options,) = distinct
    take = f" take {options.take}" if options.take and options.take > 1 else ""
    return f"{options.mode} {6 if options.mode is Mode.PRO else options.duration} s{take}"
