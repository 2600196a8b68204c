"""An image: its reference (`ImageRef`), its measurements (`ImageFacts`), and the limit of its size (`check_size`).

`i2v.media.image_check` decodes it. Keep out finding images (`i2v.inputs.sources`) and reading them (`i2v.s3.storage`,
the fetcher), and decoders: they take memory in every process.
"""

import re
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, model_validator

from i2v.errors import Refused, UsageError
from i2v.s3_uri import S3Uri
from i2v.urls import redact_url

MAX_IMAGE_BYTES = 20_000_000
"""docs/provider.md: at most 20 MB. MB is the smaller reading of MB and MiB, so the provider accepts what we accept."""

ImageFormat = Literal["JPEG", "PNG"]

_ACCEPTED = "Use s3://bucket/key or https://…"


def is_text(value: str) -> bool:
    """Return whether the string can be encoded as UTF-8. Strings from JSON or the command line can have surrogates."""
    return not re.search(r"[\ud800-\udfff]", value)


class ImageRef(BaseModel):
    """A reference to an image: an object in S3 or a URL."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    uri: S3Uri | None = None
    url: str | None = Field(default=None, repr=False)
    """Its query can be a signature: show `label` instead."""

    @model_validator(mode="after")
    def _require_exactly_one(self) -> Self:
        if (self.uri is None) == (self.url is None):
            raise ValueError("an image has either an S3 URI or a URL")
        return self

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `s3://bucket/key` or a web URL; raise `UsageError` for anything else and for a prefix.

        Plain http is accepted here; the fetcher decides whether to fetch it.
        """
        if text.lower().startswith(("https://", "http://")):
            return cls(url=_checked_url(text))
        try:
            uri = S3Uri.parse(text)
            uri.key.encode()
        except ValueError:
            raise UsageError(f"{redact_url(text)!r} is not an image URI", _ACCEPTED) from None
        if uri.is_prefix:
            raise UsageError(f"{uri} is a prefix, not one image", _ACCEPTED)
        return cls(uri=uri)

    @property
    def label(self) -> str:
        """The image's name for logs, reports and messages; it contains no secrets."""
        return str(self.uri) if self.uri else redact_url(self.url or "")

    def __str__(self) -> str:
        return self.label


def _checked_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        well_formed = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        well_formed = False
    if not well_formed or re.search(r"[\s\x00-\x1f\x7f\ud800-\udfff]", text):
        raise UsageError(f"{redact_url(text)!r} is not a valid URL", "Use https://host/path/image.jpg")
    return text


class ImageFacts(BaseModel):
    """The measurements of an image that the provider accepts: sides in pixels as displayed, size in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    size: int
    format: ImageFormat
    width: int
    height: int
    fingerprint: str = ""
    """What it shows, in 64 hex digits: `i2v.media.fingerprint`."""

    @property
    def content_type(self) -> str:
        """The MIME type of the bytes; the object's own Content-Type is ignored."""
        return f"image/{self.format.lower()}"


def check_size(size: int, label: str) -> None:
    """Check a size in bytes, before the image is read. Raise `Refused`: `empty` or `too_large`."""
    if size == 0:
        raise Refused(f"{label} is empty (0 bytes)", "Upload the image again", "empty")
    if size > MAX_IMAGE_BYTES:
        message = f"{label} is too large: {size / 1e6:.1f} MB ({size:,} bytes); the provider accepts at most 20 MB"
        raise Refused(message, "Save a smaller version", "too_large")
