"""A bucket that can only be listed: hundreds of thousands of images and their outputs, generated on request.

It implements ListObjectsV2 as S3 does: 1,000 URL-encoded keys per page. `python -m tests.support.listing_server IMAGES
EACH` serves that many images; every EACH-th has no outputs, the others have a poster, a manifest and a video. It
prints its address, and ends when its stdin closes.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, urlsplit

from tests.support.paths import ROOT

PAGE = 1000
START = datetime(2026, 1, 1, tzinfo=UTC)
ENDINGS = (".jpg", ".json", ".mp4")
ODD = (
    "x.jpg",
    "x.jpg.png",
    "x.jpg/y.jpg",
    "x.jpg/0123456789ab-0123456789ab.jpg",
    "a b+c%20d.jpg",
    "Zo\u00eb.jpg",
    "Zoe\u0308.jpg",
    "line\nend.jpg",
    "<&>'\".jpg",
    "e\u0301" * 338 + "e.jpg",
)
"""Difficult names; the last has 1,019 bytes, so that its key is close to the limit of 1,024."""


def name_of(number: int) -> str:
    """Return an image's name below the prefix."""
    return ODD[number] if number < len(ODD) else f"{number // 1000:05}/photo {number:07}.jpg"


def etag_of(number: int) -> str:
    """Return an image's ETag."""
    return f"{number:032x}"


def modified_at(number: int) -> datetime:
    """Return when an image was put: newest first, so that the oldest are last in the listing."""
    return START - timedelta(seconds=number)


def _answer(number: int, ending: str) -> str:
    name = name_of(number)
    folder = f"_long/{hashlib.sha256(name.encode()).hexdigest()}" if len(name.encode()) > 900 else name
    return f"{folder}/{hashlib.sha256(etag_of(number).encode()).hexdigest()[:12]}-0123456789ab{ending}"


def _row(key: str, number: int) -> str:
    return (
        f"<Contents><Key>{quote(key)}</Key><LastModified>{modified_at(number):%Y-%m-%dT%H:%M:%S}.000Z</LastModified>"
        f"<ETag>&quot;{etag_of(number)}&quot;</ETag><Size>123456</Size><StorageClass>STANDARD</StorageClass></Contents>"
    )


class Bucket:
    """The bucket's contents: how many keys a prefix has, and its rows from a position on."""

    def __init__(self, images: int, each: int) -> None:
        self._images = images
        self._answered = [number for number in range(images) if number % each != each - 1]

    def count(self, prefix: str) -> int:
        """Return how many keys a prefix has."""
        return {"images/": self._images, "videos/": len(self._answered) * len(ENDINGS)}.get(prefix, 0)

    def rows(self, prefix: str, start: int, most: int) -> list[str]:
        """Return one page of a prefix."""
        positions = range(start, min(start + most, self.count(prefix)))
        if prefix == "images/":
            return [_row(f"images/{name_of(number)}", number) for number in positions]
        found = ((self._answered[at // len(ENDINGS)], ENDINGS[at % len(ENDINGS)]) for at in positions)
        return [_row(f"videos/{_answer(number, ending)}", number) for number, ending in found]


class Handler(BaseHTTPRequestHandler):
    """Answer ListObjectsV2 and nothing else."""

    protocol_version = "HTTP/1.1"
    bucket: Bucket

    def do_GET(self) -> None:
        """Return one page."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        if "prefix" not in asked:
            self._answer(404, "<Error><Code>NoSuchKey</Code><Message>There is none.</Message></Error>")
            return
        prefix, start = asked["prefix"], int(asked.get("continuation-token", 0))
        most = min(PAGE, int(asked.get("max-keys", PAGE)))
        end = start + most
        more = f"<NextContinuationToken>{end}</NextContinuationToken>" if end < self.bucket.count(prefix) else ""
        self._answer(
            200,
            '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>big</Name><Prefix>{prefix}</Prefix><EncodingType>url</EncodingType>"
            f"<IsTruncated>{str(bool(more)).lower()}</IsTruncated>{more}"
            f"{''.join(self.bucket.rows(prefix, start, most))}</ListBucketResult>",
        )

    def _answer(self, status: int, text: str) -> None:
        body = f'<?xml version="1.0" encoding="UTF-8"?>{text}'.encode()
        self.send_response_only(status)
        self.send_header("Date", format_datetime(datetime.now(UTC), usegmt=True))
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the server's name for it
        """Log nothing."""


@contextmanager
def listing_server(images: int, each: int) -> Iterator[str]:
    """Run the server in a separate process, apart from what is measured here; yield its address."""
    command = [sys.executable, "-m", __spec__.name if __spec__ else __name__, str(images), str(each)]
    root = ROOT
    with subprocess.Popen(  # noqa: S603 - our own module
        command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin
        assert child.stdout
        yield child.stdout.readline().strip()
        child.stdin.close()


def main() -> None:
    """Serve until stdin is closed."""
    images, each = map(int, sys.argv[1:])
    Handler.bucket = Bucket(images, each)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        sys.stdout.write(f"http://127.0.0.1:{server.server_port}\n")
        sys.stdout.flush()
        sys.stdin.read()
        server.shutdown()


if __name__ == "__main__":
    main()
