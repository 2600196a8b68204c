"""Which keys an image cannot have: `why_no_image`."""

from i2v.errors import UsageError
from i2v.ledger.keys import RESERVED
from i2v.s3_uri import S3Uri
from i2v.settings import Settings


def is_reserved(uri: S3Uri, settings: Settings) -> bool:
    """Return whether an image from outside the images prefix may have this name."""
    return settings.images.holds(uri) and uri.key.removeprefix(settings.images.key).startswith(RESERVED)


def why_no_image(uri: S3Uri, settings: Settings) -> str | None:
    """Return why no image can have this URI, or `None` if one can."""
    for name, place in (("I2V_VIDEOS_PREFIX", settings.videos), ("I2V_JOBS_PREFIX", settings.jobs)):
        if place.holds(uri):
            return f"{name} ({place}) never contains images"
    if is_reserved(uri, settings):
        return f"{', '.join(RESERVED)} are reserved for images from other buckets and URLs"
    return None


def check_allowed(uri: S3Uri, settings: Settings) -> None:
    """Raise `UsageError` if no image can have this URI."""
    if why := why_no_image(uri, settings):
        raise UsageError(f"{uri} cannot be an image: {why}", "Copy it to another key under the images prefix")
