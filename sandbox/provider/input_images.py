"""Fetches and checks the submitted image by the vendor's rules. An `ImageError` becomes a failed task."""

import io
from urllib.parse import parse_qs, urlsplit

import httpx
from PIL import Image

MAX_BYTES = 20 * 1024 * 1024
MIN_SHORT_SIDE = 300
"""The short side must be longer."""
FETCH_SECONDS = 30
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning)
"""What Pillow raises on broken files; the warning is raised where warnings are errors."""


class ImageError(Exception):
    """Why the task fails: the vendor's fail code and a message."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message


async def fetch_image(client: httpx.AsyncClient, url: str, s3_address: str | None) -> bytes:
    """Fetch the image with nothing but its URL. Raise `ImageError` if it is unreachable, not a 200 or too large."""
    parts = urlsplit(url)
    if parts.netloc == s3_address and not {"X-Amz-Signature", "Signature"} & parse_qs(parts.query).keys():
        raise ImageError("IMAGE_DOWNLOAD_FAILED", "image URL answered 403: it carries no signature")
    try:
        async with client.stream("GET", url, timeout=FETCH_SECONDS) as response:
            if response.status_code != httpx.codes.OK:
                raise ImageError("IMAGE_DOWNLOAD_FAILED", f"image URL answered {response.status_code}")
            return await _read(response)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ImageError("IMAGE_DOWNLOAD_FAILED", f"image URL: {type(error).__name__}") from None


async def _read(response: httpx.Response) -> bytes:
    data = bytearray()
    async for chunk in response.aiter_bytes():
        data += chunk
        if len(data) > MAX_BYTES:
            raise ImageError("IMAGE_TOO_LARGE", "image has more than 20 MB")
    return bytes(data)


def check_image(data: bytes) -> None:
    """Raise `ImageError` unless this is a whole JPEG or PNG with 2:5 < ratio < 5:2 and a short side over 300 px."""
    width, height = _size(data)
    if not (2 * height < 5 * width and 2 * width < 5 * height):
        raise ImageError("InvalidImageSize", f"image ratio {width}:{height} is not between 2:5 and 5:2")
    if min(width, height) <= MIN_SHORT_SIDE:
        raise ImageError("InvalidImageSize", f"image is {width}x{height}, its short side must be over 300 px")


def _size(data: bytes) -> tuple[int, int]:
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            image.load()
            return image.size
    except UNREADABLE as error:
        raise ImageError("ImageFormatIncorrect", f"not a complete JPG or PNG: {type(error).__name__}") from None
