"""`i2v export` writes what changed into the partitions of its days, and nothing else."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from i2v.erasure.records import forget
from i2v.errors import I2vError, StorageError, UsageError
from i2v.export import parquet
from i2v.export.parquet import read_rows, write_rows
from i2v.export.places import FolderPlace, place_at
from i2v.export.rows import attempt_rows
from i2v.export.write import Export, export_tables, rewrite_jobs
from i2v.ledger import keys
from i2v.ledger.attempt import EndKind
from i2v.ledger.job import JobRecord
from i2v.ledger.ledger import Ledger
from i2v.ledger.transitions import store
from i2v.s3_uri import S3Uri
from tests.support.exported_tables import FIRST_DAY, put_record, record_of, submitted, sum_of, tables_in
from tests.support.job_records import FORGOTTEN_IMAGE, LATER, NOW, PRICE, UNKNOWN, VIDEO, applied
from tests.support.memory_storage import MemoryBucket, MemoryStorage, WatchedStorage
from tests.support.settings import SealedSettings

AN_HOUR = 3600


class World:
    """A ledger in memory and a local folder for its tables."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bucket = MemoryBucket()
        self.settings = SealedSettings(I2V_BUCKET="b-1")
        self.failing: set[str] = set()
        self.read: list[str] = []
        self.ledger = Ledger(WatchedStorage(self.bucket, self._before), self.settings)

    def _before(self, operation: str, uri: S3Uri) -> None:
        if operation == "get":
            self.read.append(uri.key)
        if operation == "get" and uri.key in self.failing:
            raise StorageError(f"S3 returned 503 for {uri}")

    async def put(self, *records: JobRecord) -> None:
        """Write records, an hour after whatever was before."""
        self.bucket.wait(AN_HOUR)
        for record in records:
            await put_record(MemoryStorage(self.bucket), self.settings, record)
        self.bucket.wait(AN_HOUR)

    async def export(self, since: date = FIRST_DAY) -> Export:
        """Export, and return what was done."""
        self.read.clear()
        return await export_tables(self.ledger, FolderPlace(self.folder), since)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Return an empty ledger."""
    return World(tmp_path / "tables")


def stored(record: JobRecord) -> JobRecord:
    """Return the job with its video, stored an hour after `NOW`."""
    return applied(store(record, "task_a", VIDEO, LATER))


async def test_each_row_is_in_the_partition_of_its_day(world: World) -> None:
    """Attempts and costs lie under the day of the claim, videos under the day on which they were stored."""
    late = record_of(submitted(1), 1, at=NOW.replace(hour=23, minute=30))
    await world.put(stored(late).model_copy(), submitted(2, days_later=1), record_of(UNKNOWN, 3))
    ended = applied(store(late, "task_a", VIDEO, NOW + timedelta(days=1)))
    await world.put(ended)
    result = await world.export()

    attempts, videos, costs = (tables_in(world.folder, table) for table in ("attempts", "videos", "costs"))
    assert {day: len(rows) for day, rows in attempts.items()} == {"2026-11-22": 2, "2026-11-23": 1}
    assert {day: [row["job"][-1] for row in rows] for day, rows in videos.items()} == {"2026-11-23": ["1"]}
    assert sum_of(costs, "BilledCost") == sum_of(attempts, "cost_usd") == 3 * PRICE
    assert (result.records, result.first_day, len(result.written)) == (3, FIRST_DAY, 5)


async def test_a_second_export_reads_and_writes_nothing(world: World) -> None:
    """Nothing changed: no record is read, no partition is written. Also all again gives the same bytes."""
    await world.put(*(stored(submitted(number)) for number in range(5)))
    await world.export()
    world.bucket.wait(AN_HOUR)
    second, read = await world.export(), list(world.read)
    (world.folder / "_export.json").unlink()
    again = await world.export()

    assert (second.records, second.written, read) == (0, {}, [])
    assert (again.records, again.written) == (5, {})


async def test_a_late_end_reaches_the_partition_of_its_day(world: World) -> None:
    """A job of yesterday is stored today: only its record is read, its row is replaced, the others stay as they are."""
    await world.put(*map(submitted, range(4)), submitted(9, days_later=1))
    await world.export()
    await world.put(stored(submitted(2)))
    result = await world.export()

    (rows,) = (rows for day, rows in tables_in(world.folder, "attempts").items() if day == "2026-11-22")
    assert world.read == [f"jobs/{2:064x}.json"]
    assert [row["ended_as"] for row in rows] == [None, None, "stored", None]
    assert sorted(result.written) == [
        f"{table}/day=2026-11-22/part-0.parquet" for table in ("attempts", "costs", "videos")
    ]


async def test_a_change_within_the_second_of_an_export_is_not_missed(world: World) -> None:
    """S3's times are whole seconds: a record that is written right after the listing is read the next time."""
    await world.put(submitted(1))
    await world.export()
    await put_record(MemoryStorage(world.bucket), world.settings, submitted(2))
    result = await world.export()

    assert (world.read, len(result.written)) == ([f"jobs/{2:064x}.json"], 2)


async def test_an_attempt_that_cost_nothing_after_all_leaves_the_costs(world: World) -> None:
    """A claim that was released is still an attempt, and costs 0."""
    claimed = record_of(UNKNOWN, 1)
    await world.put(claimed)
    await world.export()
    (attempt,) = claimed.attempts
    assert attempt.end
    unpaid = attempt.model_copy(update={"end": attempt.end.model_copy(update={"kind": EndKind.UNPAID})})
    await world.put(claimed.model_copy(update={"attempts": (unpaid,), "revision": claimed.revision + 1}))
    await world.export()

    assert tables_in(world.folder, "costs") == {"2026-11-22": []}
    assert [row["cost_usd"] for row in tables_in(world.folder, "attempts")["2026-11-22"]] == [Decimal(0)]


async def test_an_older_export_replaces_no_newer_row(world: World) -> None:
    """Of two concurrent exports the newer revision wins, in either order of writes."""
    await world.put(stored(submitted(1)))
    await world.export()
    (world.folder / "_export.json").unlink()
    await world.put(submitted(1))  # as an export saw it that began earlier
    await world.export()

    assert [row["ended_as"] for row in tables_in(world.folder, "attempts")["2026-11-22"]] == ["stored"]


async def test_a_record_that_cannot_be_read_is_read_the_next_time(world: World) -> None:
    """It is named and stops no other; its rows follow, although its record did not change again."""
    await world.put(submitted(1), submitted(2))
    world.failing = {f"jobs/{1:064x}.json"}
    first = await world.export()
    world.failing = set()
    world.bucket.wait(AN_HOUR)
    second = await world.export()

    assert (first.unread, first.records) == ([f"{1:064x}"], 1)
    assert (second.unread, second.records) == ([], 1)
    assert sum_of(tables_in(world.folder, "attempts"), "cost_usd") == 2 * PRICE


async def test_no_partition_lacks_rows(world: World) -> None:
    """Days before the first one are not written, also for a change; an earlier `since` brings them, all of each."""
    old, other = submitted(1, days_later=-5), submitted(2, days_later=-5)
    await world.put(old, other, submitted(3))
    await world.export()
    await world.put(stored(old))
    await world.export()
    before = sorted(tables_in(world.folder, "attempts"))
    await world.export(since=date(2026, 11, 1))
    after = await world.export()

    assert before == ["2026-11-22"]
    assert {day: len(rows) for day, rows in tables_in(world.folder, "attempts").items()} == {
        "2026-11-17": 2,
        "2026-11-22": 1,
    }
    assert after.first_day == date(2026, 11, 1)


async def test_rows_of_a_forgotten_image_are_written_again(world: World) -> None:
    """Name, prompt and custom columns vanish where they are, and sums stay. No new partition is made."""
    jane = record_of(stored(submitted(1)), 1, extra={"sku": "jane"})
    await world.put(jane, stored(submitted(2)))
    await world.export()
    before = {table: sum_of(tables_in(world.folder, table), "cost_usd") for table in ("attempts", "videos")}
    await world.put(applied(forget(jane, FORGOTTEN_IMAGE, NOW)))
    names = await rewrite_jobs(world.ledger, FolderPlace(world.folder), [jane.key])
    elsewhere = await rewrite_jobs(world.ledger, FolderPlace(world.folder.parent / "none"), [jane.key])

    tables = {table: tables_in(world.folder, table) for table in ("attempts", "videos", "costs")}
    assert (len(names), elsewhere) == (3, [])
    assert "jane" not in str(tables)
    assert {str(row["image"]) for row in tables["videos"]["2026-11-22"]} == {jane.image.label, "forgotten/x"}
    assert {table: sum_of(tables[table], "cost_usd") for table in before} == before


async def test_tables_of_another_ledger_are_not_mixed(world: World) -> None:
    """The message names both ledgers."""
    await world.export()
    world.ledger.settings = SealedSettings(I2V_BUCKET="b-2")
    with pytest.raises(UsageError, match="are those of s3://b-1/jobs/, not of s3://b-2/jobs/"):
        await world.export()


async def test_a_foreign_file_is_named(world: World) -> None:
    """A partition that is no Parquet file stops the export with what to do; nothing is overwritten."""
    await world.put(submitted(1))
    file = world.folder / "attempts/day=2026-11-22/part-0.parquet"
    file.parent.mkdir(parents=True)
    file.write_text("not parquet")
    with pytest.raises(UsageError, match="is not a table of this i2v"):
        await world.export()
    assert file.read_text() == "not parquet"


async def test_without_pyarrow_the_extra_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command says what to install."""
    monkeypatch.setattr(parquet, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match="pip install pyarrow"):
        await world.export()


async def test_a_full_disk_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says where there is no space, and what to do."""
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    with pytest.raises(I2vError, match=r"Cannot write to /nowhere: .*set TMPDIR"):
        await world.export()


def test_places_are_checked(world: World) -> None:
    """A prefix over images, videos or the ledger is refused; the ledger's own tables and other buckets are not."""
    storage, settings = world.ledger.storage, world.settings

    assert str(place_at(None, storage, settings)) == "s3://b-1/jobs/tables/"
    assert str(place_at("s3://b-1/jobs/tables", storage, settings)) == str(keys.tables_uri(settings))
    assert str(place_at("s3://warehouse/i2v", storage, settings)) == "s3://warehouse/i2v/"
    for wrong in ("s3://b-1/", "s3://b-1/videos/x/", "s3://b-1/jobs/", "s3://B/x"):
        with pytest.raises(UsageError):
            place_at(wrong, storage, settings)


def test_equal_rows_give_equal_bytes_and_come_back(tmp_path: Path) -> None:
    """A file has several row groups, and amounts with many digits are kept to ten."""
    (row,) = attempt_rows(record_of(UNKNOWN, 1, extra={"b": "2", "a": "1"}))
    lines = [row.model_copy(update={"attempt": n, "price_usd": Decimal(1) / 3}).model_dump() for n in range(12_000)]
    first, second = tmp_path / "1", tmp_path / "2"

    assert write_rows(first, "attempts", lines) == write_rows(second, "attempts", iter(lines)) == 12_000
    assert first.read_bytes() == second.read_bytes()
    back = list(read_rows(first, "attempts"))
    assert [line["attempt"] for line in back] == list(range(12_000))
    assert (back[0]["price_usd"], back[0]["extra"]) == (Decimal("0.3333333333"), {"a": "1", "b": "2"})
    assert back[0]["claimed_at"] == NOW
