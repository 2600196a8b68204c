"""Types of the fields of `Settings`: what each accepts, and the error for what it does not."""

import re
from collections.abc import Collection
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    Field,
    HttpUrl,
    SecretStr,
    StringConstraints,
    TypeAdapter,
)

from i2v.publish_template import check_template, published_folder
from i2v.s3_uri import S3Uri

PREFIX_MAX_BYTES = 80
"""An S3 key has up to 1,024 bytes, of which the names in `i2v.ledger.keys` take up to 938."""


def _http_url(text: str) -> str:
    TypeAdapter(HttpUrl).validate_python(text)
    return text.rstrip("/")


def _api_url(text: str) -> str:
    url = _http_url(text)
    parts = urlsplit(url)
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("it must not have a user name, password, query or fragment; the key goes to APIXO_API_KEY")
    return url


def _token(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value().strip()
    if not re.fullmatch(r"[!-~]{16,}", text):
        why = "it is too short, has a blank or is not ASCII"
        raise ValueError(f"{why}; use at least 16 characters, such as those of: openssl rand -hex 32")
    return SecretStr(text)


def is_listed(hosts: Collection[str], host: str, port: int) -> bool:
    """Return whether `hosts` has this host or host:port; an IPv6 address may have brackets."""
    names = {host, f"[{host}]"} if ":" in host else {host}
    return any(name in hosts or f"{name}:{port}" in hosts for name in names)


def at_most(limit: int, why: str) -> AfterValidator:
    """Return the check of an upper limit; `why` it exists is in its error."""

    def check(value: float) -> float:
        if value > limit:
            raise ValueError(f"{why}; set {limit} or less")
        return value

    return AfterValidator(check)


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; raise `ValueError` if it has a key twice, of which Python would drop one."""
    if len(read := dict(pairs)) < len(pairs):
        raise ValueError("it has the same key twice")
    return read


def _prefix(text: str) -> str:
    if not text.endswith("/"):
        raise ValueError(f"{text!r} must end in '/'")
    key = S3Uri.parse(text).key if text.startswith("s3://") else text
    if len(key.encode()) > PREFIX_MAX_BYTES:
        raise ValueError(f"a prefix has at most {PREFIX_MAX_BYTES} bytes, because an S3 key has at most 1,024")
    if text.startswith("s3://"):
        return text
    if text.startswith("/") or "//" in text:
        raise ValueError(f"{text!r} is not a prefix; use e.g. 'images/' or 's3://bucket/images/'")
    return text


def _publish_template(template: str) -> str:
    check_template(template)
    _prefix(published_folder(template))
    return template


Seconds = Annotated[float, Field(gt=0, le=31_536_000, allow_inf_nan=False)]
"""A duration of at most one year."""
Signable = at_most(604_800, "S3 signs URLs for at most 7 days")
SignableSeconds = Annotated[float, Field(gt=0, allow_inf_nan=False), Signable]
LeaseSeconds = Annotated[Seconds, Field(ge=10)]
"""Fractions of it are the time limits of a submit."""
ApiUrl = Annotated[str, AfterValidator(_api_url)]
HttpAddress = Annotated[str, AfterValidator(_http_url)]
Prefix = Annotated[str, AfterValidator(_prefix)]
PublishTemplate = Annotated[str, AfterValidator(_publish_template)]
Token = Annotated[SecretStr, AfterValidator(_token)]
"""A secret that we choose, and that others must not guess."""
HostName = Annotated[str, StringConstraints(to_lower=True)]
