"""What is known of a whole video, `VideoFacts`, and how it differs from its order; `i2v.media.videos` measures it.

FFmpeg is not needed for that, and is not loaded: it takes 17 MB, of which a run without a ready video has no use.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from i2v.request import Mode, Request

SHORT_SIDE_PX = {Mode.STANDARD: 768, Mode.PRO: 1080}
"""docs/provider.md, part 1: output."""
SHORT_SIDE_TOLERANCE_PERCENT = 2
SECONDS_TOLERANCE = 0.5


class VideoFacts(BaseModel):
    """What was measured in a whole video. Sides are pixels as displayed, size is bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int
    height: int
    seconds: float
    frames: int
    codec: str
    size: int
    sha256: str


def deviations(facts: VideoFacts, request: Request) -> tuple[str, ...]:
    """How the video differs from what was ordered, each as a few words; the aspect is the image's and not judged."""
    found = []
    short, ordered = min(facts.width, facts.height), SHORT_SIDE_PX[request.mode]
    if abs(short - ordered) * 100 > ordered * SHORT_SIDE_TOLERANCE_PERCENT:
        found.append(f"short side {short} px instead of {ordered} px")
    if abs(facts.seconds - request.duration) > SECONDS_TOLERANCE:
        found.append(f"{facts.seconds:.2f} s long instead of {request.duration} s")
    return tuple(found)
