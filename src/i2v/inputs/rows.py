"""Stream the images of a batch as rows of a batch file, so that a million images take no memory: `stream_rows`.

`i2v.inputs.sources` finds the images of one run, with the facts of their listing.
"""

import logging
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from hashlib import sha256
from typing import NamedTuple

from i2v.errors import BadRow, NoImages, UsageError
from i2v.inputs.batch_files import BatchRow
from i2v.inputs.image_keys import check_allowed, why_no_image
from i2v.inputs.prompts import SIDECAR_SUFFIX, RequestOptions
from i2v.inputs.sources import (
    IMAGE_SUFFIXES,
    InputItem,
    accepted_images,
    ending,
    named_items,
    nothing_under,
    prefix_of,
)
from i2v.media.images import ImageRef
from i2v.pricing import PRO_SECONDS
from i2v.request import Mode
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri
from i2v.settings import Settings

log = logging.getLogger(__name__)
SIDECARS = tuple(suffix + SIDECAR_SUFFIX for suffix in IMAGE_SUFFIXES)


class Row(NamedTuple):
    """A line of a batch file, and the product that it requests, as far as it and the run's options show."""

    line: bytes
    product: str
    """A name in `i2v.pricing.PRICES_USD`."""


class RowStream:
    """The rows of the named images, in order, without duplicates (same image and same options)."""

    def __init__(
        self,
        images: Sequence[str | BatchRow],
        default: RequestOptions,
        storage: Storage,
        settings: Settings,
        *,
        skip_bad_rows: bool = False,
    ) -> None:
        self.other_files: Counter[str] = Counter()
        """How many files under the prefixes are not named like images, by ending, once all rows were read."""
        self.bad_rows: list[BadRow] = []
        """The rows of batch files that were skipped."""
        self._skip_bad_rows = skip_bad_rows
        self._images = images
        self._default = default
        self._storage = storage
        self._settings = settings

    async def __aiter__(self) -> AsyncIterator[Row]:
        """Yield the rows. Raise as `find_items` does."""
        if not self._images:
            raise UsageError("No images are given", accepted_images())
        is_unique = len(self._images) == 1 and prefix_of(self._images[0])  # no key is listed twice
        seen: set[bytes] = set()
        empty: list[NoImages] = []
        found = False
        for entry in self._images:
            try:
                async for row in self._rows(entry):
                    found = True
                    if not is_unique:
                        digest = sha256(row.line).digest()[:16]
                        if digest in seen:
                            continue
                        seen.add(digest)
                    yield row
            except NoImages as error:
                empty.append(error)
        if not found:
            raise empty[0]
        for none in empty:
            log.warning("%s", none.message)

    async def _rows(self, entry: str | BatchRow) -> AsyncIterator[Row]:
        if prefix := prefix_of(entry):
            async for uri in self._under(prefix):
                yield self._row(InputItem.model_construct(ref=ImageRef.model_construct(uri=uri), options=_NO_OPTIONS))
            return
        rows, bad_rows = await named_items(
            entry, self._storage, self._settings, self._row, skip_bad_rows=self._skip_bad_rows
        )
        self.bad_rows += bad_rows
        for row in rows:
            yield row

    async def _under(self, prefix: S3Uri) -> AsyncIterator[S3Uri]:
        check_allowed(prefix, self._settings)
        objects = images = reserved = 0
        async for entry in self._storage.list(prefix):
            objects += 1
            name = entry.uri.key.lower()
            if not name.endswith(IMAGE_SUFFIXES):
                is_other = not (name.endswith(SIDECARS) or entry.uri.is_prefix)
                self.other_files.update([ending(entry.uri)] if is_other else ())
            elif why_no_image(entry.uri, self._settings):
                reserved += 1
            else:
                images += 1
                yield entry.uri
        if reserved:
            log.warning("skipped %d objects under %s: their names are reserved", reserved, prefix)
        if not images:
            raise nothing_under(prefix, objects)

    def _row(self, item: InputItem) -> Row:
        image = str(item.ref.uri) if item.ref.uri else item.ref.url or ""
        row = BatchRow.model_construct(image=image, **dict(item.options))
        options = item.options.over(self._default)
        seconds = PRO_SECONDS if options.mode is Mode.PRO else options.duration or PRO_SECONDS
        return Row(
            row.model_dump_json(exclude_none=True, exclude_defaults=True).encode() + b"\n",
            f"{options.mode or Mode.STANDARD}-{seconds}",
        )


_NO_OPTIONS = RequestOptions()
