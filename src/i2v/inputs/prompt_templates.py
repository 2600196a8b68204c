"""Prompt templates: `{stem}`, `{key}` and `{folder}` stand for parts of an image's key.

The prompts of a run and of the settings are templates; those of an image itself are literal (`i2v.inputs.prompts`).
"""

from pathlib import PurePosixPath
from string import Formatter
from urllib.parse import unquote, urlsplit

from i2v.errors import UsageError
from i2v.media.images import ImageRef
from i2v.s3_uri import S3Uri
from i2v.settings import Settings

FIELDS = ("stem", "key", "folder")
"""The fields of a prompt template."""
_TEMPLATE_HINT = "Known fields are {stem}, {key}, {folder}; write {{ and }} for braces"


def prefix_template(ref: ImageRef, settings: Settings) -> str | None:
    """Return the prompt of the longest prefix in `I2V_PROMPTS_BY_PREFIX` that matches an image, if one does.

    Prefixes are below the images prefix, so they match no URL and no image elsewhere.
    """
    below = ref.uri is not None and settings.images.holds(ref.uri)
    key = image_path(ref, settings.images)
    matching = [prefix for prefix in settings.prompts_by_prefix if below and key.startswith(prefix)]
    return settings.prompts_by_prefix[max(matching, key=len)] if matching else None


def check_templates(prompt: str | None, settings: Settings) -> None:
    """Raise `UsageError` if the run's prompt, or without one a prompt of the settings, is an invalid template."""
    templates = {f"I2V_PROMPTS_BY_PREFIX, {prefix!r}: ": text for prefix, text in settings.prompts_by_prefix.items()}
    templates["I2V_DEFAULT_PROMPT: "] = settings.default_prompt or ""
    for place, template in ({"": prompt} if prompt else templates).items():
        try:
            _fill(template, dict.fromkeys(FIELDS, ""))
        except UsageError as error:
            raise UsageError(f"{place}{error.message}", error.hint) from None


def render_prompt(template: str, ref: ImageRef, images: S3Uri) -> str:
    """Replace `{stem}`, `{key}` and `{folder}`; `{{` and `}}` are literal braces.

    Key and folder are relative to the images prefix, or the path of a URL. Raise `UsageError` for an unknown field.
    """
    key = image_path(ref, images)
    folder, _, name = key.rpartition("/")
    return _fill(template, {"stem": PurePosixPath(name).stem, "key": key, "folder": folder})


def image_path(ref: ImageRef, images: S3Uri) -> str:
    """Return an image's key below the images prefix, else its whole key, or the path of its URL."""
    if ref.uri is None:
        return unquote(urlsplit(ref.label).path).strip("/")
    return ref.uri.key.removeprefix(images.key) if images.holds(ref.uri) else ref.uri.key


def _fill(template: str, values: dict[str, str]) -> str:
    try:
        fields = list(Formatter().parse(template))
    except ValueError:
        raise UsageError("The prompt has an unmatched brace", _TEMPLATE_HINT) from None
    for _, name, spec, conversion in fields:
        if name is not None and (name not in values or spec or conversion):
            written = name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
            raise UsageError(f"The prompt has an unknown field {{{written}}}", _TEMPLATE_HINT)
    return template.format_map(values)
