"""Search everything that is stored for secrets, in every encoding they could have: `SecretSearch`."""

from __future__ import annotations

import base64
import json
import re
import sqlite3
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, quote_plus

from sandbox import Sandbox


def forms(secret: str) -> set[bytes]:
    """Return a secret's encodings: plain, URL-encoded once and twice, JSON, hex, base64 at each alignment."""
    plain = secret.encode()
    found = {plain, plain.hex().encode(), json.dumps(secret)[1:-1].encode()}
    for encoded in (quote(secret, safe=""), quote_plus(secret)):
        found |= {encoded.encode(), quote(encoded, safe="").encode(), encoded.lower().encode()}
    for shift in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            whole = encode(b"\0" * shift + plain)
            found.add(whole[4 if shift else 0 : len(whole) // 4 * 4 - 4])
    return found


class AllowedLinks:
    """The one exception, in artifacts: links to videos, posters and manifests, and to the spend report's chart."""

    COLUMNS = frozenset({("artifact", "data"), ("artifact_collection", "data")})

    def __init__(self, sandbox: Sandbox, seconds: int) -> None:
        bucket = re.escape(f"{sandbox.aws.url}/{sandbox.bucket}/")
        named = r"X-Amz-(?:Algorithm|Credential|Date|SignedHeaders|Security-Token|Signature)=[\w%.~-]+"
        parts = rf"(?:{named}|X-Amz-Expires={seconds})"
        place = r"(?:videos/[\w%./~-]+\.(?:mp4|jpg|json)|jobs/reports/spend-[\d-]+\.png)"
        self._link = re.compile(rf"{bucket}{place}\?{parts}(?:(?:&amp;|&){parts})*(?![\w%.~&-])")
        self.count = 0

    def cut(self, table: str, column: str, value: bytes | str) -> bytes | str:
        """Return the value without allowed links, and count those."""
        if (table, column) not in self.COLUMNS or not isinstance(value, str):
            return value
        rest, links = self._link.subn("", value)
        self.count += links
        return rest


class SecretSearch:
    """Search for secrets, given by name, and collect where they were found.

    Each must have at least 16 characters, so that no match is accidental.
    """

    def __init__(self, secrets: Mapping[str, str]) -> None:
        assert all(len(secret) >= 16 for secret in secrets.values())
        self._forms = {name: forms(secret) for name, secret in secrets.items()}
        self.found: set[tuple[str, str]] = set()
        self.searched = 0

    def search(self, where: str, what: bytes | str) -> None:
        """Search one text or file."""
        self.searched += 1
        content = what.encode(errors="replace") if isinstance(what, str) else what
        for name, spellings in self._forms.items():
            if any(spelling in content for spelling in spellings):
                self.found.add((name, where))

    def search_folder(self, folder: Path) -> None:
        """Search every file below a folder."""
        for path in folder.rglob("*"):
            if path.is_file():
                self.search(f"{folder.name}/{path.relative_to(folder)}", path.read_bytes())

    def search_database(
        self,
        path: Path,
        allowed: AllowedLinks | None = None,
        earlier: AbstractSet[tuple[str, str, bytes | str]] = frozenset(),
    ) -> None:
        """Search every new value of every table; in the file itself, long values are split into pages."""
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            for table, column, value in _values(database):
                if (table, column, value) in earlier:
                    continue
                text = allowed.cut(table, column, value) if allowed else value
                self.search(f"table {table}, column {column}", text)

    def search_bucket(self, sandbox: Sandbox) -> None:
        """Search every object of a bucket: key, body and metadata."""
        for key in sandbox.keys():  # noqa: SIM118 - not a dict
            answer = sandbox.s3().get_object(Bucket=sandbox.bucket, Key=key)
            self.search(f"object {key}", b"\n".join((key.encode(), answer["Body"].read())))
            self.search(f"metadata of {key}", json.dumps(answer["Metadata"]))


def values_in(path: Path) -> AbstractSet[tuple[str, str, bytes | str]]:
    """Return every value in a database."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return set(_values(database))


def _values(database: sqlite3.Connection) -> Iterator[tuple[str, str, bytes | str]]:
    tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    for table in tables:
        rows = database.execute(f'SELECT * FROM "{table}"')  # noqa: S608 - the table's name is the database's own
        columns = [column[0] for column in rows.description]
        for row in rows:
            for column, value in zip(columns, row, strict=True):
                if isinstance(value, bytes | str):
                    yield table, column, value
