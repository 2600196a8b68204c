"""ETags: compared without `W/` and quotes, and sent in the form that the server accepts (`EtagForm`)."""

from enum import StrEnum

WRONG_ETAG = "0" * 32
"""An ETag that no object has."""


class EtagForm(StrEnum):
    """How If-Match carries an ETag. RFC 9110 wants quotes, and some servers reject them."""

    QUOTED = '"{}"'
    BARE = "{}"
    WEAK = 'W/"{}"'

    def of(self, etag: str) -> str:
        """Return an opaque ETag in this form."""
        return self.value.format(etag)


def opaque_etag(header: str) -> str:
    """Return an ETag as it is compared: a proxy that compresses makes it weak, and some servers omit the quotes."""
    return header.removeprefix("W/").strip('"')
