"""Where tables are: `S3Place` or `FolderPlace`. Both take names such as `videos/day=2026-11-27/part-0.parquet`."""

import asyncio
import hashlib
import os
import shutil
from datetime import date
from pathlib import Path
from typing import Protocol

from i2v.errors import NotFound, UsageError
from i2v.ledger import keys
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri
from i2v.settings import Settings

STATE_NAME = "_export.json"
"""Readers of Parquet skip names that begin with an underscore."""
CONTENT_TYPE = "application/vnd.apache.parquet"


def partition(table: str, day: date) -> str:
    """Return the name of the file with a day's rows."""
    return f"{table}/day={day.isoformat()}/part-0.parquet"


class Place(Protocol):
    """A folder for tables."""

    async def fetch(self, name: str, path: Path) -> str | None:
        """Copy a file to a local path and return its version; `None` if there is none."""

    async def put(self, name: str, path: Path, version: str | None) -> None:
        """Replace this version of a file, or create it. Raise `Conflict` if another writer was first."""


class S3Place:
    """A prefix in S3."""

    def __init__(self, storage: Storage, prefix: S3Uri) -> None:
        self._storage = storage
        self.prefix = prefix

    def __str__(self) -> str:
        return str(self.prefix)

    async def fetch(self, name: str, path: Path) -> str | None:
        """Copy an object to a local path and return its etag; `None` if there is none."""
        try:
            return (await self._storage.get_file(self.prefix / name, path)).etag
        except NotFound:
            return None

    async def put(self, name: str, path: Path, version: str | None) -> None:
        """Write over the object with this etag, or if there is none."""
        sha256 = await asyncio.to_thread(sha256_of, path)
        kind = "application/json" if name.endswith(".json") else CONTENT_TYPE
        uri = self.prefix / name
        await self._storage.put_file(uri, path, sha256=sha256, content_type=kind, metadata={}, if_match=version)


class FolderPlace:
    """A local folder, for one export at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __str__(self) -> str:
        return str(self._folder)

    async def fetch(self, name: str, path: Path) -> str | None:
        """Copy a file to a path; return an empty version, or `None` if there is none."""
        try:
            await asyncio.to_thread(shutil.copyfile, self._folder / name, path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UsageError(f"Cannot read {self._folder / name}: {error.strerror}", "Use another --out") from None
        return ""

    async def put(self, name: str, path: Path, version: str | None) -> None:
        """Replace the file at once: readers see the old one or the new one."""
        del version
        try:
            await asyncio.to_thread(_replace, self._folder / name, path)
        except OSError as error:
            raise UsageError(f"Cannot write {self._folder / name}: {error.strerror}", "Use another --out") from None


def own_place(storage: Storage, settings: Settings) -> S3Place:
    """Return the place of the tables beside the ledger."""
    return S3Place(storage, keys.tables_uri(settings))


def place_at(out: str | None, storage: Storage, settings: Settings) -> S3Place | FolderPlace:
    """Return the place for tables: a prefix in S3 or a folder, else beside the ledger. Raise `UsageError`."""
    if not out:
        return own_place(storage, settings)
    if not out.startswith("s3://"):
        return FolderPlace(Path(out))
    try:
        uri = S3Uri.parse(out if out.endswith("/") else f"{out}/")
    except ValueError:
        raise UsageError(f"{out!r} is not an S3 URI", "Use --out s3://bucket/prefix/") from None
    for name, prefix in (("images", settings.images), ("videos", settings.videos), ("jobs", settings.jobs)):
        if uri.holds(prefix) or (prefix.holds(uri) and uri != keys.tables_uri(settings)):
            raise UsageError(f"{uri} overlaps the {name} prefix {prefix}", "Use another prefix, or leave out --out")
    return S3Place(storage, uri)


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _replace(target: Path, path: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f"_{target.name}.{os.getpid()}")
    shutil.copyfile(path, aside)
    aside.replace(target)
