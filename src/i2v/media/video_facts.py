"""The measurements of a complete video, `VideoFacts`, and its deviations from the request.

`i2v.media.videos` does the measuring. Keep FFmpeg out: it takes 17 MB of memory, and many runs never need it.
"""

from pydantic import BaseModel, ConfigDict

from i2v.request import Mode, Request

SHORT_SIDE_PX = {Mode.STANDARD: 768, Mode.PRO: 1080}
"""docs/provider.md, part 1: output."""
SHORT_SIDE_TOLERANCE_PERCENT = 2
SECONDS_TOLERANCE = 0.5
AI_GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's digital source type of what a model made."""


class VideoFacts(BaseModel):
    """The measurements of a complete video: sides in pixels as displayed, size in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int
    height: int
    seconds: float
    frames: int
    codec: str
    container: str = "mp4"
    """Also the file's ending: `mp4`, `mov`, `webm` or `mkv`."""
    size: int
    sha256: str
    ai_marks: tuple[str, ...] = ()
    """Marks of AI origin that came with the file: `c2pa`, or `iptc:` and the digital source type."""
    flags: tuple[str, ...] = ()
    """What is odd about the file or its pictures, a few words each."""


def deviations(facts: VideoFacts, request: Request) -> tuple[str, ...]:
    """Return what is odd about a video, and how it differs from the request. The image sets its aspect ratio."""
    found = [*facts.flags]
    short, requested = min(facts.width, facts.height), SHORT_SIDE_PX[request.mode]
    if abs(short - requested) * 100 > requested * SHORT_SIDE_TOLERANCE_PERCENT:
        found.append(f"short side {short} px instead of {requested} px")
    if abs(facts.seconds - request.duration) > SECONDS_TOLERANCE:
        found.append(f"{facts.seconds:.2f} s long instead of {request.duration} s")
    return tuple(found)
