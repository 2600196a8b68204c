"""How much of HTTP a response may violate: what curl and browsers take is taken, what hides a cut body is not."""

import re
import string
from collections.abc import Iterable
from http.client import HTTPException, HTTPResponse
from io import BufferedReader, BytesIO
from urllib.parse import quote

import urllib3
from urllib3.exceptions import HTTPError
from urllib3.util.response import assert_header_parsing

INFORMATIONAL = range(102, 200)
PARTIAL = 206
_BLANK = (b"\r\n", b"\n")
_HEADER = re.compile(rb"([!-9;-~]+)[ \t]*(:[^\r\n\0]*\r?\n)")
_FOLDED = re.compile(rb"[ \t][^\r\n\0]*\r?\n")


def declared_length(values: Iterable[str]) -> int | None:
    """Return the length that the Content-Length headers declare, None without one; reject different values."""
    lengths = {length.strip() for value in values for length in value.split(",")}
    if not lengths:
        return None
    length = lengths.pop()
    if lengths or not re.fullmatch(r"[0-9]{1,18}", length):
        raise HTTPException("the Content-Length is invalid")
    return int(length)


def whole_range(response: urllib3.BaseHTTPResponse) -> int | None:
    """Return the size of the whole object if the response is a 206 that has all of it."""
    found = re.fullmatch(r"bytes\s+0-(\d{1,18})/(\d{1,18})", response.headers.get("content-range", "").strip())
    is_whole = response.status == PARTIAL and found and int(found[1]) + 1 == int(found[2])
    return int(found[2]) if found and is_whole else None


def location(response: urllib3.BaseHTTPResponse) -> str | None:
    """Return the first Location header, which may hold UTF-8, other raw bytes and blanks."""
    values = response.headers.getlist("location")
    if not values:
        return None
    raw = values[0].encode("latin-1")  # as which `http.client` decodes headers
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = quote(raw, safe=string.printable)
    return " ".join(text.split())


def unpack(body: bytes, coding: str, limit: int) -> bytes:
    """Return a body decoded as its Content-Encoding says, cut at `limit` bytes; unchanged if it is not so encoded."""
    try:
        return _packed(body, coding).read(limit)
    except HTTPError:
        return body


def _packed(body: bytes, coding: str) -> urllib3.HTTPResponse:
    return urllib3.HTTPResponse(BytesIO(body), {"Content-Encoding": coding}, preload_content=False)


class TolerantResponse(HTTPResponse):
    """Skip what curl and browsers skip in a head; reject the rest before urllib3 logs it together with the URL."""

    fp: BufferedReader

    def begin(self) -> None:
        """Read the head, and find out how the body is encoded."""
        self.read_head()
        self._read_framing()
        self._drop_false_encoding()

    def read_head(self) -> None:
        """Read the head; skip every informational response, where `http.client` skips only 100."""
        whole = self.fp
        self.fp = _HeadLines(whole)  # type: ignore[assignment]  # `begin` only reads lines
        try:
            super().begin()
            while self.status in INFORMATIONAL:
                self.headers = None  # type: ignore[assignment]  # makes `begin` read again
                super().begin()
        finally:
            self.fp = whole
        assert_header_parsing(self.headers)

    def _read_framing(self) -> None:
        declared_length(self.headers.get_all("content-length", []))
        codings = {coding.strip().lower() for coding in self._list("transfer-encoding")} - {"", "identity"}
        if codings == {"chunked"}:  # `http.client` does not strip it
            self.chunked, self.chunk_left, self.length = True, None, None
        elif codings:
            raise HTTPException("unsupported transfer coding")

    def _drop_false_encoding(self) -> None:
        """Drop a Content-Encoding that the first bytes of the body disprove."""
        coding = ",".join(self._list("content-encoding"))
        if not coding or self.status not in {200, 203, PARTIAL} or self.length == 0:
            return
        try:
            _packed(self.peek(1), coding).read(1)
        except HTTPError:
            del self.headers["Content-Encoding"]

    def _list(self, name: str) -> list[str]:
        return [part for value in self.headers.get_all(name, []) for part in value.split(",")]


class TunnelResponse(TolerantResponse):
    """The response to a CONNECT: no body follows, and the connection stays open."""

    def begin(self) -> None:
        """Read the head."""
        self.read_head()
        self.length, self.chunked, self.will_close = 0, False, False


class _HeadLines:
    """The lines of a head, without those that are not headers and those that continue them."""

    def __init__(self, file: BufferedReader) -> None:
        self._file = file
        self._is_status, self._skipping = True, False

    def readline(self, limit: int) -> bytes:
        """Return the next status line, header or blank line. Raise `HTTPException` if the head ends early."""
        while line := self._file.readline(limit):
            if line in _BLANK or self._is_status:
                self._is_status, self._skipping = line in _BLANK, True
                return line
            if len(line) >= limit or (_FOLDED.fullmatch(line) and not self._skipping):
                return line
            header = _HEADER.fullmatch(line)
            self._skipping = header is None
            if header:
                return header[1] + header[2]
        raise HTTPException("the head is incomplete")

    def close(self) -> None:
        """Close the file."""
        self._file.close()
