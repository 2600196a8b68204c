"""Find names of `I2V_PUBLISH_AS` that two images would share, before anything is paid."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from i2v.errors import I2vError, NotFound, NotTried
from i2v.ledger.keys import sibling_uri
from i2v.pipeline import outcomes
from i2v.pipeline.context import RunContext
from i2v.pipeline.named_copies.names import image_digest, named_copy_uri
from i2v.pipeline.video_order import Order
from i2v.reports.run_report import ItemReport
from i2v.s3_uri import S3Uri

ENDINGS = (".mp4", ".jpg", ".json")
FOREIGN = "foreign"
_HINT = "Add {folder}, {take} or a custom column to I2V_PUBLISH_AS, or rename one image"


class Shared(NamedTuple):
    """Who else would get a name."""

    image: str
    """The first of them."""
    others: int
    """How many."""


async def without_conflicts(
    run: RunContext, prepared: Sequence[asyncio.Future[Order | ItemReport]]
) -> list[asyncio.Future[Order | ItemReport]]:
    """Wait for all images, and replace each order whose name is taken by its line in the report; all others stay.

    A name is taken by what is published under it, else by another image of this run.
    """
    all_prepared = await asyncio.gather(*prepared)
    names: dict[int, S3Uri] = {}
    images: dict[S3Uri, set[str]] = {}
    lines: dict[int, ItemReport] = {}
    for number, order in enumerate(all_prepared):
        if not isinstance(order, Order):
            continue
        try:
            name = named_copy_uri(run.settings, order.image, order.request, order.extra)
        except NotTried as error:
            lines[number] = outcomes.of_error(run, order.image.label, error, order)
            continue
        if name:
            names[number] = name
            images.setdefault(name, set()).add(order.image.label)

    async def check(number: int, name: S3Uri) -> None:
        order = all_prepared[number]
        if isinstance(order, Order):
            others = images[name] - {order.image.label}
            shared = Shared(min(others), len(others)) if others else None
            if error := await find_conflict(run, name, order.image.label, shared):
                lines[number] = outcomes.of_error(run, order.image.label, error, order)

    await asyncio.gather(*(check(number, name) for number, name in names.items()))
    return [_done(lines.get(number, one)) for number, one in enumerate(all_prepared)]


async def find_conflict(run: RunContext, name: S3Uri, label: str, shared: Shared | None) -> I2vError | None:
    """Return an error if another image has this name, `shared` is one that would get it, or that cannot be read."""
    try:
        async with run.limits.preparing:
            for ending in ENDINGS:
                place = sibling_uri(name, ending)
                if image := await _image_at(run, place):
                    return None if image == image_digest(label) else _taken(place, image)
    except I2vError as error:
        return error
    if not shared:
        return None
    more = f" and {shared.others - 1:,} more" if shared.others > 1 else ""
    return NotTried(f"Not submitted: it would be published as {name}, and so would {shared.image}{more}", _HINT)


async def _image_at(run: RunContext, place: S3Uri) -> str | None:
    """Return the digest of the image that is published here, `FOREIGN` for any other object, `None` for none."""
    try:
        return (await run.storage.head(place)).metadata.get("image", FOREIGN)
    except NotFound:
        return None


def _taken(place: S3Uri, image: str) -> NotTried:
    whose = "an object that i2v did not publish" if image == FOREIGN else "of another image"
    return NotTried(f"Not submitted: it would be published as {place}, which is {whose}", f"{_HINT}, or delete it")


def _done(value: Order | ItemReport) -> asyncio.Future[Order | ItemReport]:
    future: asyncio.Future[Order | ItemReport] = asyncio.get_running_loop().create_future()
    future.set_result(value)
    return future
