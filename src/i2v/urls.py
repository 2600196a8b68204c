"""URLs in messages: `redact_url`, and `redact_urls` in longer text."""

import re


def redact_url(url: str) -> str:
    """Return the URL without user info, query and fragment, which can hold secrets."""
    return re.sub(r"^([^/]*//)[^/]*@|^[^/@]*:[^/]*@", r"\1", re.split(r"[?#]", url, maxsplit=1)[0])


def redact_urls(text: str) -> str:
    """Return the text with each URL in it redacted."""
    return re.sub(r"\w+://[^\s\"'<>]+", lambda match: redact_url(match[0]), text)
