"""Result links that end by themselves, signed like those of a file host."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time


class ResultUrls:
    """Makes and checks the links of one emulator."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self._secret = secrets.token_bytes(16)

    def make(self, task_id: str, seconds: float) -> str:
        """A link that lives that long; with none or less it is already over."""
        expires = round((time.time() + seconds) * 1000)
        return f"{self._base_url}/files/{task_id}.mp4?Expires={expires}&Signature={self._sign(task_id, expires)}"

    def is_alive(self, task_id: str, expires: str, signature: str) -> bool:
        """Whether a link is ours and not over."""
        if not (expires.isascii() and expires.isdecimal() and signature.isascii()):
            return False
        genuine = hmac.compare_digest(self._sign(task_id, int(expires)), signature)
        return genuine and int(expires) > time.time() * 1000

    def _sign(self, task_id: str, expires: int) -> str:
        return hmac.new(self._secret, f"{task_id}:{expires}".encode(), hashlib.sha256).hexdigest()
