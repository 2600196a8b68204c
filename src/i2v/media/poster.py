"""The poster of a video, a JPEG of its first frame: `make_poster`."""

from fractions import Fraction
from io import BytesIO

from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, Interpolation
from PIL import Image

from i2v.media.video_facts import AI_GENERATED

LONG_SIDE_PX = 960
QUANTIZER = 3
"""FFmpeg's scale from 1 to 31; lower is better."""
ROTATED_QUALITY = 90
"""Pillow's scale, for a poster that had to be rotated."""
_UNSPECIFIED = 2
_KNOWN_COLORSPACES = frozenset({0, 1, 2, 4, 5, 6, 7, 9})
"""FFmpeg's numbers of the color spaces it can convert for a JPEG; posters from others are slightly off."""
_XMP = f"""http://ns.adobe.com/xap/1.0/\0<x:xmpmeta xmlns:x="adobe:ns:meta/">\
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" \
xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" \
Iptc4xmpExt:DigitalSourceType="{AI_GENERATED}"/></rdf:RDF></x:xmpmeta>""".encode()
_SEGMENT = b"\xff\xe1" + (len(_XMP) + 2).to_bytes(2) + _XMP
"""Marks the poster as made by AI, as IPTC asks."""


def make_poster(frame: VideoFrame, width: int, height: int, rotation: int) -> bytes:
    """Return a JPEG of a frame that is shown at this width and height before it is rotated."""
    scale = min(1.0, LONG_SIDE_PX / max(width, height))
    jpeg = _jpeg(frame, *(max(1, round(side * scale)) for side in (width, height)))
    if rotation:
        buffer = BytesIO()
        Image.open(BytesIO(jpeg)).rotate(rotation, expand=True).save(buffer, "JPEG", quality=ROTATED_QUALITY)
        jpeg = buffer.getvalue()
    place = 4 + int.from_bytes(jpeg[4:6]) if jpeg[2:4] == b"\xff\xe0" else 2
    return jpeg[:place] + _SEGMENT + jpeg[place:]


def empty_poster() -> bytes:
    """Return a gray poster, for a video of which nothing can be decoded."""
    frame = VideoFrame(320, 180, "yuvj420p")
    for plane in frame.planes:
        plane.update(bytes([128]) * plane.buffer_size)
    return make_poster(frame, 320, 180, 0)


def _jpeg(frame: VideoFrame, width: int, height: int) -> bytes:
    """Encode with FFmpeg: it converts the colors without RGB in between, in a third of Pillow's time."""
    encoder = VideoCodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuvj420p"
    encoder.time_base, encoder.thread_count = Fraction(1), 1
    encoder.qmin = encoder.qmax = QUANTIZER
    encoder.options = {"huffman": "default"}
    if frame.colorspace not in _KNOWN_COLORSPACES:
        frame.colorspace = _UNSPECIFIED
    colors, scaling = Colorspace.ITU601, Interpolation.FAST_BILINEAR
    picture = frame.reformat(width, height, "yuvj420p", dst_colorspace=colors, interpolation=scaling, threads=1)
    picture.pts = 0
    return b"".join(map(bytes, encoder.encode(picture)))
