"""Find the images of a batch that would share a name of `I2V_PUBLISH_AS`, before its first shard: `leave_out_shared`.

A run compares its own images and what is published, so two shards could pay for one name.
"""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Sequence
from contextlib import suppress

from i2v.errors import I2vError, NotTried
from i2v.export.scratch import open_scratch
from i2v.inputs.batch_files import BatchRow
from i2v.inputs.prompts import RequestOptions, options_of_object, row_options
from i2v.inputs.rows import Row
from i2v.media.images import ImageRef
from i2v.pipeline import outcomes
from i2v.pipeline.context import RunContext
from i2v.pipeline.named_copies.conflicts import Shared, find_conflict
from i2v.pipeline.named_copies.names import name_of, template_fields
from i2v.reports.run_report import ItemReport
from i2v.request import Mode
from i2v.s3_uri import S3Uri

AT_ONCE = 1_000
_SCHEMA = """
CREATE TABLE rows (id INTEGER PRIMARY KEY, line, product, image, name, is_sure);
CREATE TABLE shared (name PRIMARY KEY, images, first) WITHOUT ROWID;
"""
_INSERT = "INSERT INTO rows (line, product, image, name, is_sure) VALUES (?, ?, ?, ?, ?)"
_UPDATE = "UPDATE rows SET name = ?, is_sure = TRUE WHERE id = ?"
_NAMELESS = "SELECT id, line FROM rows WHERE NOT is_sure AND name IS NULL AND id > ? ORDER BY id LIMIT ?"
_DOUBTFUL = """
SELECT id, line FROM rows WHERE NOT is_sure AND name IN (SELECT name FROM shared) AND id > ? ORDER BY id LIMIT ?
"""
_FIND_SHARED = """
CREATE INDEX IF NOT EXISTS by_name ON rows (name, image) WHERE name IS NOT NULL;
DELETE FROM shared;
INSERT INTO shared SELECT name, count(DISTINCT image) AS images, min(image) FROM rows WHERE name IS NOT NULL
  GROUP BY name HAVING images > 1;
"""
_ALL = """
SELECT line, product, image, name, images - 1, iif(image > first, first,
  (SELECT min(image) FROM rows AS other WHERE other.name = rows.name AND other.image > rows.image))
FROM rows LEFT JOIN shared USING (name) ORDER BY id
"""
"""Each row; if its name is shared, with the number of other images, and the first of them."""


async def leave_out_shared(
    run: RunContext, rows: AsyncIterable[Row], default: RequestOptions
) -> AsyncGenerator[Row | ItemReport, None]:
    """Yield the rows in order. For a row whose name another image has or would get, yield its report line.

    Rows wait on disk, so that memory does not grow with them. Custom columns, take and mode that a row does not have
    are looked up in its object's metadata if its name depends on them.
    """
    if run.settings.publish_as is None:
        async for row in rows:
            yield row
        return
    namer = _Namer(run, default)
    with open_scratch(_SCHEMA) as (database, _):
        async for some in _chunks(rows):
            database.executemany(_INSERT, [(row.line, row.product, *namer.from_row(row.line)) for row in some])
        await _look_up(_NAMELESS, database, namer)
        database.executescript(_FIND_SHARED)
        while await _look_up(_DOUBTFUL, database, namer):
            database.executescript(_FIND_SHARED)
        found = database.execute(_ALL)
        while some_found := found.fetchmany(AT_ONCE):
            shared = {number: _checked(run, *one) for number, one in enumerate(some_found) if one[-1]}
            lines = dict(zip(shared, await asyncio.gather(*shared.values()), strict=True))
            for number, (line, product, *_) in enumerate(some_found):
                yield lines.get(number) or Row(line, product)


async def _look_up(query: str, database: sqlite3.Connection, namer: "_Namer") -> bool:
    """Name the rows that the query finds by their objects' metadata; return whether there were any."""
    last = 0
    while page := database.execute(query, (last, AT_ONCE)).fetchall():
        names = await asyncio.gather(*(namer.from_metadata(line) for _, line in page))
        last = page[-1][0]
        database.executemany(_UPDATE, [(name, number) for name, (number, _) in zip(names, page, strict=True)])
    return last > 0


async def _chunks(rows: AsyncIterable[Row]) -> AsyncIterator[Sequence[Row]]:
    some: list[Row] = []
    async for row in rows:
        some.append(row)
        if len(some) == AT_ONCE:
            yield some
            some = []
    yield some


async def _checked(
    run: RunContext, line: bytes, _product: str, image: str, name: str, others: int, other: str
) -> ItemReport | None:
    """Return the report's line of an image that shares its name, unless the name is published for this image."""
    if error := await find_conflict(run, S3Uri.parse(name), image, Shared(other, others)):
        extra = dict(BatchRow.model_validate_json(line).extra)
        return outcomes.of_error(run, image, error).model_copy(update={"extra": extra})
    return None


class _Namer:
    def __init__(self, run: RunContext, default: RequestOptions) -> None:
        self._run = run
        self._default = default
        self._fields = template_fields(run.settings)

    def from_row(self, line: bytes) -> tuple[str, str | None, bool]:
        """Return the image's label, its name as far as its row shows, and whether its metadata cannot change it."""
        ref, options = self._parse(line)
        given = {f"extra.{column}" for column, _ in options.extra} | options.model_dump(exclude_none=True).keys()
        is_sure = ref.uri is None or self._fields - {"folder", "stem"} <= given
        return ref.label, self._name(ref, options), is_sure

    async def from_metadata(self, line: bytes) -> str | None:
        """Return the name of an image by its row and its object's metadata; `None` if its run will refuse it."""
        ref, options = self._parse(line)
        try:
            async with self._run.limits.preparing:
                metadata = (await self._run.storage.head(ref.uri)).metadata if ref.uri else {}
                options = await options_of_object(options, ref, metadata, self._run.storage, may_have_sidecar=False)
        except I2vError:
            return None
        return self._name(ref, options)

    def _parse(self, line: bytes) -> tuple[ImageRef, RequestOptions]:
        row = BatchRow.model_validate_json(line)
        ref = ImageRef.parse(row.image)
        return ref, row_options(row, self._default, ref, self._run.settings)

    def _name(self, ref: ImageRef, options: RequestOptions) -> str | None:
        take, mode = options.take or self._default.take or 1, options.mode or self._default.mode or Mode.STANDARD
        request = {"take": str(take), "mode": str(mode)}
        with suppress(NotTried):
            return str(name_of(self._run.settings, ref, request, dict(options.extra)))
        return None
