"""The name of a published copy: the template of `I2V_PUBLISH_AS`, filled in for one image and request. Pure."""

import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import PurePosixPath

from i2v.errors import NotTried
from i2v.inputs.prompt_templates import image_path
from i2v.ledger.job import JobImage
from i2v.media.images import ImageRef, is_text
from i2v.publish_template import published_folder, template_parts
from i2v.request import Request
from i2v.s3_uri import S3Uri
from i2v.settings import Settings

KEY_MAX_BYTES = 1024
"""S3's limit."""
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def named_copy_uri(settings: Settings, image: JobImage, request: Request, extra: Mapping[str, str]) -> S3Uri | None:
    """Return where the video of this image is published, `None` without `I2V_PUBLISH_AS`. Raise as `name_of`."""
    return name_of(settings, ImageRef.parse(image.label), {"take": str(request.take), "mode": str(request.mode)}, extra)


def template_fields(settings: Settings) -> set[str]:
    """Return the fields that names depend on."""
    return {field for _, field in template_parts(settings.publish_as or "") if field}


def name_of(settings: Settings, ref: ImageRef, request: Mapping[str, str], extra: Mapping[str, str]) -> S3Uri | None:
    """Return the name by `I2V_PUBLISH_AS`, `None` without; `request` has take and mode.

    Raise `NotTried` if the image has no valid name: it lacks a column, or the name is not a valid key.
    """
    template = settings.publish_as
    if template is None or settings.published is None:
        return None
    folder, _, name = image_path(ref, settings.images).rpartition("/")
    values = {f"extra.{column}": value for column, value in extra.items()}
    values |= {"folder": f"{folder}/" if folder else "", "stem": PurePosixPath(name).stem, **request}
    parts = template_parts(template)
    if missing := [field for _, field in parts if field is not None and not values.get(field) and field != "folder"]:
        raise NotTried(f"I2V_PUBLISH_AS needs {{{missing[0]}}}, which this image does not have", "Set it, or change it")
    text = "".join(literal + values.get(field or "", "") for literal, field in parts)
    uri = settings.published / text.removeprefix(published_folder(template))
    if problem := _problem(uri.key):
        raise NotTried(f"It cannot be published as {uri!s:.200}: {problem}", "Change I2V_PUBLISH_AS or the column")
    return uri


def _problem(key: str) -> str | None:
    if not is_text(key) or _CONTROLS.search(key):
        return "the name has control characters"
    if {"", ".", ".."} & set(key.split("/")):
        return "the name has an empty folder, `.` or `..`"
    size = len(key.encode()) + len(".webm") - len(".mp4")
    return f"the name has {size} bytes; S3 allows {KEY_MAX_BYTES}" if size > KEY_MAX_BYTES else None


def image_digest(label: str) -> str:
    """Return how a published object names its image in its metadata, which is ASCII."""
    return sha256(label.encode()).hexdigest()
