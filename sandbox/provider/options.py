"""`ProviderOptions`: how the emulator behaves, at start and while it runs. Scripted faults are in `faults`."""

from decimal import Decimal
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ProviderOptions(BaseModel):
    """How the emulator behaves. Times are seconds, money is US dollars."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    api_key: str = "sandbox-key"
    balance_usd: Decimal = Decimal(1000)
    """The balance at start and after a reset. Changing it sets the balance."""

    render_seconds: float = Field(default=2, ge=0)
    """From submit to success. The vendor takes 85 to 180 s."""
    render_jitter: float = Field(default=0, ge=0, le=1)
    """By what share of `render_seconds` a task may be faster or slower."""
    seed: int = 0
    render: Literal["each", "shared"] = "each"
    """`each` animates every image; `shared` serves one video for all images of a size (load tests)."""
    fast: bool = False
    """Render small, coarse videos at one frame a second, to save CPU."""
    file_bytes: int = Field(default=0, ge=0)
    """Pad videos to this length. Synthetic ones are small; the vendor's have about 3 MB."""

    callback_scale: float = Field(default=1, gt=0)
    """Multiplies the delays between callback attempts (30, 60, 120 s)."""
    s3_address: str | None = None
    """host:port of the sandbox's S3. Unsigned image URLs there are rejected, as real S3 does."""
