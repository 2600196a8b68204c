"""The template of `I2V_PUBLISH_AS`, such as `published/{folder}{stem}.mp4`: what it may contain, and its parts."""

import re
from functools import lru_cache
from string import Formatter

FIELDS = ("folder", "stem", "take", "mode")
_FIELD = re.compile(rf"{'|'.join(FIELDS)}|extra\.[a-z0-9_][a-z0-9_-]*")


@lru_cache
def template_parts(template: str) -> list[tuple[str, str | None]]:
    """Return each literal text with the field that follows it, `None` at the end."""
    return [(literal, field) for literal, field, _, _ in Formatter().parse(template)]


def check_template(template: str) -> None:
    """Raise `ValueError` if names cannot be made from it."""
    try:
        parts = list(Formatter().parse(template))
    except ValueError:
        raise ValueError("it has an unmatched brace") from None
    fields = [
        name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
        for _, name, spec, conversion in parts
        if name is not None
    ]
    if unknown := [name for name in fields if not _FIELD.fullmatch(name)]:
        names = ", ".join(f"{{{name}}}" for name in FIELDS)
        raise ValueError(f"{{{unknown[0]}}} is not a field; use {names} or {{extra.sku}} with a column of yours")
    if not any(name == "stem" or name.startswith("extra.") for name in fields):
        raise ValueError("it must have {stem} or a column such as {extra.sku}, or all videos share one name")
    if not template.endswith(".mp4"):
        raise ValueError("it must end in .mp4; poster and manifest get the same name with .jpg and .json")


def published_folder(template: str) -> str:
    """Return the literal folder that it begins with, which no name leaves. Raise `ValueError` if it has none."""
    folder, slash, _ = template.partition("{")[0].rpartition("/")
    if not slash or folder.endswith((":", ":/")):
        raise ValueError("it must begin with its own folder, such as published/")
    return folder + slash
