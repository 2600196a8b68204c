"""Signed result URLs that expire, like those of a file host."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time


class ResultUrls:
    """Creates and verifies the result URLs of one emulator."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self._secret = secrets.token_bytes(16)

    def create(self, task_id: str, seconds: float) -> str:
        """Return a URL that is valid for that long; a negative number makes an expired one."""
        expires = round((time.time() + seconds) * 1000)
        return f"{self._base_url}/files/{task_id}.mp4?Expires={expires}&Signature={self._sign(task_id, expires)}"

    def is_valid(self, task_id: str, expires: str, signature: str) -> bool:
        """Whether the signature is ours and the URL has not expired."""
        if not (expires.isascii() and expires.isdecimal() and signature.isascii()):
            return False
        genuine = hmac.compare_digest(self._sign(task_id, int(expires)), signature)
        return genuine and int(expires) > time.time() * 1000

    def _sign(self, task_id: str, expires: int) -> str:
        return hmac.new(self._secret, f"{task_id}:{expires}".encode(), hashlib.sha256).hexdigest()
