"""Encode any text as S3 object metadata, which is printable ASCII only: RFC 2047 encoded words."""

import re
from base64 import b64decode
from email.charset import SHORTEST, Charset
from email.errors import MessageError
from email.header import decode_header

METADATA_MAX_BYTES = 2048
"""S3's limit for all names and values of an object together."""
_PLAIN = re.compile(r"(?:[!-~]+(?: [!-~]+)*)?")
"""Text that every server stores unchanged: no line breaks, no leading, trailing or repeated spaces."""

_BASE64 = re.compile(r"=\?[^?]*\?[bB]\?([^?]*)\?=")
"""An encoded word, with its payload."""


def encode_metadata(text: str) -> str | None:
    """Return the text as a metadata value: unchanged if possible, else encoded. `None` if it is too long."""
    if _PLAIN.fullmatch(text) and "=?" not in text:
        encoded = text
    else:
        charset = Charset("utf-8")
        charset.header_encoding = SHORTEST
        encoded = str(charset.header_encode(text))
    return encoded if len(encoded) <= METADATA_MAX_BYTES else None


def decode_metadata(text: str) -> str:
    """Return the decoded text of a metadata value, or the value itself if it cannot be decoded."""
    if not text.isascii():
        return _as_utf8(text)
    if "=?" not in text:
        return text
    try:
        for payload in _BASE64.findall(text):
            b64decode(payload, validate=True)  # the email package drops what it cannot decode
        parts = decode_header(text)
        return "".join(part if isinstance(part, str) else part.decode(charset or "ascii") for part, charset in parts)
    except (MessageError, LookupError, ValueError):
        return text


def _as_utf8(text: str) -> str:
    """Undo the client's Latin-1 decoding of a header that the server sent as UTF-8."""
    try:
        return text.encode("latin-1").decode()
    except ValueError:
        return text
