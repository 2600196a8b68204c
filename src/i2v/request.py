"""What a video is requested with: `Request`. Together with an image it is a job (`i2v.ledger.job`)."""

import hashlib
import json
import unicodedata
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

MODEL = "hailuo-2-3-fast"
PROMPT_MAX_CHARS = 2000
"""The limit of other providers of the same model; this one documents none (docs/provider.md)."""


class Mode(StrEnum):
    """The provider's two qualities: standard is 768p of 6 or 10 s, pro is 1080p of 6 s."""

    STANDARD = "standard"
    PRO = "pro"


def _seconds(value: object) -> object:
    return int(value) if isinstance(value, str) and value.strip().isdecimal() else value


Duration = Annotated[Literal[6, 10], BeforeValidator(_seconds)]
"""Seconds of video; a string is accepted too."""


def clean_prompt(text: str) -> str:
    r"""Return the prompt as it is sent and hashed: NFC, `\n` line ends, trimmed."""
    return unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n")).strip()


def canonical_json(value: object) -> bytes:
    """Return JSON that is equal for equal values, so that it can be hashed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


class Request(BaseModel):
    """Mode, duration, prompt and take. A `take` above 1 requests another video of the same."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Mode = Mode.STANDARD
    duration: Duration = 6
    prompt: Annotated[str, BeforeValidator(lambda v: clean_prompt(v) if isinstance(v, str) else v)] = Field(
        min_length=1, max_length=PROMPT_MAX_CHARS
    )
    take: int = Field(default=1, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _pro_is_six_seconds(cls, data: object) -> object:
        if isinstance(data, dict) and data.get("mode") == Mode.PRO:
            return {**data, "duration": 6}
        return data

    @property
    def digest12(self) -> str:
        """Twelve hex digits that stand for the request in key names."""
        return hashlib.sha256(canonical_json(self.model_dump(mode="json"))).hexdigest()[:12]

    def job_key(self, image_sha256: str) -> str:
        """Return the job key: 64 hex digits over model, request and image content."""
        parts = {"model": MODEL, **self.model_dump(mode="json"), "image_sha256": image_sha256}
        return hashlib.sha256(canonical_json(parts)).hexdigest()

    @property
    def mode_and_duration(self) -> str:
        """Mode and duration for people: `standard 6 s`."""
        return f"{self.mode} {self.duration} s"

    def __str__(self) -> str:
        return self.mode_and_duration + (f" take {self.take}" if self.take > 1 else "")
