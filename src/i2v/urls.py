"""URLs in messages: `redact_url`, `redact_urls` and `hide_signatures`; and `is_signed`, for URLs not to be stored."""

import re
from urllib.parse import parse_qsl, urlsplit

SIGNED_PARAMETERS = "X-Amz-|X-Goog-|sig(n|ned|nature)?(?![a-z])|token|credential|secret|password|policy|hmac|hdn"
"""What the names of query parameters that sign or authorize begin with."""

_CALLBACK = re.compile(r"((?:/|%2F)apixo(?:/|%2F)[0-9a-f]{64}(?:/|%2F)[0-9]+(?:/|%2F))[0-9A-Za-z]+", re.IGNORECASE)


def redact_url(url: str) -> str:
    """Return the URL without user info, query and fragment, which can hold secrets."""
    return re.sub(r"^([^/]*//)[^/]*@|^[^/@]*:[^/]*@", r"\1", re.split(r"[?#]", url, maxsplit=1)[0])


def redact_urls(text: str) -> str:
    """Return the text with each URL in it redacted."""
    return re.sub(r"\w+://[^\s\"'<>]+", lambda match: redact_url(match[0]), text)


def is_signed(url: str) -> bool:
    """Return whether a URL contains a signature or a password, so it must not be stored."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    named = re.compile(rf"(^|[-_.])({SIGNED_PARAMETERS})|key$", re.IGNORECASE)
    return "@" in parts.netloc or any(named.search(name) for name, _ in parse_qsl(parts.query, keep_blank_values=True))


def hide_signatures(text: str) -> str:
    """Return the text without the signatures of callback URLs, which the provider may repeat."""
    return _CALLBACK.sub(r"\1…", text)
