"""URLs in messages: `redact_url`."""

import re


def redact_url(url: str) -> str:
    """Return the URL without user info, query and fragment, which can hold secrets."""
    return re.sub(r"^([^/]*//)[^/]*@|^[^/@]*:[^/]*@", r"\1", re.split(r"[?#]", url, maxsplit=1)[0])
