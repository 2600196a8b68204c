"""One task of the emulator and its status: `Task`; and the signed URL of its video: `ResultUrls`.

`sandbox.provider.emulator` runs the tasks.
"""

import hashlib
import hmac
import json
import secrets
import time
import uuid
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from sandbox.provider.contract import SubmitRequest, envelope
from sandbox.provider.faults import Fault, FaultTarget


@dataclass
class Task:
    """A submit and its progress. Times are Unix seconds.

    `fetched` is set once fetching the image has succeeded or failed, `video` once the file is ready.
    """

    request: SubmitRequest
    billed_usd: Decimal
    due: float
    id: str = field(default_factory=lambda: f"task_{uuid.uuid4().hex}")
    created: float = field(default_factory=time.time)
    state: Literal["processing", "success", "failed"] = "processing"
    ended: float | None = None
    fail_code: str = ""
    fail_message: str = ""
    fetched: bool = False
    image_sha256: str | None = None
    video: Path | None = None
    statuses: int = 0
    downloads: int = 0
    callbacks: int = 0
    fault: Fault | None = None

    def fault_target(self, endpoint: str) -> FaultTarget:
        """Return what scripted faults are checked against."""
        return FaultTarget(endpoint, self.request.prompt, self.request.image_url)

    def succeed(self, video: Path) -> None:
        """End with a video."""
        self.video, self.state, self.ended = video, "success", time.time()

    def fail(self, code: str, message: str) -> None:
        """End without a video."""
        self.fail_code, self.fail_message, self.state, self.ended = code, message, "failed", time.time()

    def status_body(self, result_url: str) -> dict[str, Any]:
        """Return the body of a status response or callback."""
        data: dict[str, Any] = {"taskId": self.id, "state": self.state, "createTime": _milliseconds(self.created)}
        if self.fault and self.fault.kind == "state" and self.state != "failed":
            data["state"] = self.fault.state
        if self.state == "success":
            data["resultJson"] = json.dumps({"resultUrls": [result_url]})
        if self.state == "failed":
            data |= {"failCode": self.fail_code, "failMsg": self.fail_message}
        if self.ended is not None:
            data["completeTime"] = _milliseconds(self.ended)
            if self.state == "success":
                data["costTime"] = data["completeTime"] - data["createTime"]
        return envelope(data)

    def report(self) -> dict[str, Any]:
        """Return JSON data for `GET /_sandbox/tasks`, without the image URL's query, which is a secret."""
        return {
            "task_id": self.id,
            "state": self.state,
            "mode": self.request.mode,
            "duration": self.request.duration,
            "prompt": self.request.prompt,
            "image_url": self.request.image_url.split("?")[0],
            "image_sha256": self.image_sha256,
            "billed_usd": str(self.billed_usd),
            "fail_code": self.fail_code,
            "statuses": self.statuses,
            "downloads": self.downloads,
            "callbacks": self.callbacks,
        }


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


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
