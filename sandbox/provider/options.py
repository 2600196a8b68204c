"""`ProviderOptions`: how the emulator behaves, at start and while it runs. Scripted faults are in `faults`."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ProviderOptions(BaseModel):
    """How the emulator behaves. Times are seconds, money is US dollars."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    api_key: str = "sandbox-key"
    balance_usd: Decimal = Decimal(1000)
    """What is on the account at the start and after a reset; setting it later sets the account."""
    bill_failed: bool = True
    """Whether a failed task stays billed; the vendor does not say."""

    render_seconds: float = Field(default=2, ge=0)
    """From acceptance to success; the real vendor takes 85 to 180."""
    render_jitter: float = Field(default=0, ge=0, le=1)
    """Share of `render_seconds` by which a task may take less or more."""
    seed: int = 0
    render: Literal["each", "shared"] = "each"
    """`each` animates the image it was given, `shared` serves one clip for all images of a size (load tests)."""
    fast: bool = False
    """Small, coarse videos at 4 frames a second that cost little to make."""
    file_bytes: int = Field(default=0, ge=0)
    """Videos are filled up to this length (synthetic ones are small; the vendor's have some 3 MB)."""

    requests_per_second: float | None = Field(default=None, gt=0)
    """More submits than this in one second are answered 429."""
    running_limit: int | None = Field(default=None, ge=0)
    """A submit is answered 429 while this many tasks are processing."""
    retry_after: float | None = None
    """Sent as Retry-After with those 429, where set."""

    url_seconds: float = Field(default=3600, gt=0)
    """How long a result URL lives; each status brings a fresh one."""
    callback_scale: float = Field(default=1, gt=0)
    """Multiplies the delays between callback tries (30, 60, 120 s)."""
    callback_answer_seconds: float = Field(default=30, gt=0)
    """How long a receiver of callbacks may take."""
    s3_address: str | None = None
    """host:port of the sandbox's S3: an image URL there without a signature is refused, as real S3 would."""
