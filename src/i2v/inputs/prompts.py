"""Where the prompt of an image comes from, and the request that results.

The first of these places that has a prompt wins:

1. the batch file's row, or the row given as a flow parameter
2. the object's metadata `prompt`
3. a sidecar file beside the image: `tom.jpg.txt` for `tom.jpg`
4. the run's prompt: `--prompt`, or the flow's parameter `prompt`
5. the longest matching prefix in `I2V_PROMPTS_BY_PREFIX`
6. `I2V_DEFAULT_PROMPT`

Mode, duration and take follow the same order (1, 2, 4). Prompts of 4 to 6 are templates: `{stem}`, `{key}`, `{folder}`.
"""

import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from string import Formatter
from typing import Annotated
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from i2v.errors import NotFound, Refused, UsageError
from i2v.inputs.metadata_text import METADATA_MAX_BYTES, decode_metadata, encode_metadata
from i2v.media.images import ImageRef, is_text
from i2v.request import PROMPT_MAX_CHARS, Duration, Mode, Request, clean_prompt
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri
from i2v.settings import Settings

SIDECAR_SUFFIX = ".txt"
SIDECAR_MAX_BYTES = 65_536
"""Our own limit: far above any prompt, far below most files that have such a name by mistake."""
FIELDS = ("stem", "key", "folder")
"""The fields of a prompt template."""
_CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")
"""Control characters that no one types: all but white space."""
_BLANK_LETTERS = frozenset("\u115f\u1160\u2800\u3164\uffa0")
"""Letters and symbols that Unicode shows as blanks."""
_TEMPLATE_HINT = "Known fields are {stem}, {key}, {folder}; write {{ and }} for braces"
NO_PROMPT = "has no prompt"
_HOW_TO_SET_A_PROMPT = (
    "Set one with --prompt, the flow's `prompt`, the column `prompt` of a batch file, the object's metadata `prompt`, "
    "a file beside the image (tom.jpg.txt), I2V_PROMPTS_BY_PREFIX or I2V_DEFAULT_PROMPT"
)


def _blank_is_none(value: object) -> object:
    return None if isinstance(value, str) and not value.strip() else value


def _text(value: str | None) -> str | None:
    if value and not is_text(value):
        raise ValueError("invalid characters (half of a surrogate pair); save it as UTF-8")
    return value


_Blank = BeforeValidator(_blank_is_none)


class RequestOptions(BaseModel):
    """The request options that one place sets. `None` and blank text mean not set."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    prompt: Annotated[str | None, _Blank, AfterValidator(_text)] = None
    mode: Annotated[Mode | None, _Blank] = None
    duration: Annotated[Duration | None, _Blank] = None
    """Seconds; ignored for pro, which is always 6 s."""
    take: Annotated[int | None, Field(ge=1), _Blank] = None

    def over(self, lower: "RequestOptions") -> "RequestOptions":
        """Return these options, with unset fields taken from `lower`."""
        return lower.model_copy(update=self.model_dump(exclude_none=True))


async def options_of_object(
    row: RequestOptions, ref: ImageRef, metadata: Mapping[str, str], storage: Storage, *, may_have_sidecar: bool = True
) -> RequestOptions:
    """Return the options from places 1 to 3. Raise `Refused` if the metadata or the sidecar is invalid."""
    options = row.over(metadata_options(metadata, ref.label))
    if options.prompt is None and may_have_sidecar and ref.uri:
        options = options.over(RequestOptions(prompt=await read_sidecar(storage, ref.uri)))
    return options


def default_options(default: RequestOptions, ref: ImageRef, settings: Settings) -> RequestOptions:
    """Return the options from places 4 to 6: the run's, with the prompt rendered for this image."""
    template = default.prompt or default_template(ref, settings)
    if template is None:
        return default
    return default.model_copy(update={"prompt": render_prompt(template, ref, settings.images)})


def default_template(ref: ImageRef, settings: Settings) -> str | None:
    """Return the settings' prompt for an image: of the longest matching prefix, else the default.

    Prefixes are below the images prefix, so they match no URL and no image elsewhere.
    """
    below = ref.uri is not None and settings.images.holds(ref.uri)
    key = _key(ref, settings.images)
    matching = [prefix for prefix in settings.prompts_by_prefix if below and key.startswith(prefix)]
    return settings.prompts_by_prefix[max(matching, key=len)] if matching else settings.default_prompt


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
    key = _key(ref, images)
    folder, _, name = key.rpartition("/")
    return _fill(template, {"stem": PurePosixPath(name).stem, "key": key, "folder": folder})


def _key(ref: ImageRef, images: S3Uri) -> str:
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


def request_metadata(request: Request) -> dict[str, str] | None:
    """Return the request as object metadata, or `None` if it is too long for that."""
    prompt = encode_metadata(request.prompt)
    if prompt is None:
        return None
    metadata = {"prompt": prompt, "mode": str(request.mode), "duration": str(request.duration)}
    metadata |= {"take": str(request.take)} if request.take > 1 else {}
    size = sum(len(name) + len(value) for name, value in metadata.items())
    return metadata if size <= METADATA_MAX_BYTES else None


def metadata_options(metadata: Mapping[str, str], label: str = "The image") -> RequestOptions:
    """Return the options in an object's metadata: the inverse of `request_metadata`.

    Metadata without a `prompt` is ignored: other tools store their own `mode` (s3fs: the file's permissions).
    Raise `Refused` (`metadata_invalid`) for an invalid value.
    """
    values = {name: decode_metadata(metadata.get(name, "")) for name in RequestOptions.model_fields}
    if not values["prompt"].strip():
        return RequestOptions()
    values |= {name: value.strip() for name, value in values.items() if name != "prompt"}
    try:
        return RequestOptions.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        raise Refused(
            f"{label} has metadata {name}={values[name][:40]!r}: {first['msg']}",
            "Correct the object's metadata, or remove it",
            "metadata_invalid",
        ) from None


def sidecar(uri: S3Uri) -> S3Uri:
    """Return the location of an image's prompt file: `tom.jpg.txt` for `tom.jpg`."""
    return uri / SIDECAR_SUFFIX


async def read_sidecar(storage: Storage, uri: S3Uri) -> str | None:
    """Return the prompt in the sidecar of the image at `uri`; `None` if there is none, or it is blank."""
    try:
        body = (await storage.get(sidecar(uri), limit=SIDECAR_MAX_BYTES)).body
    except NotFound:
        return None
    return sidecar_text(body, sidecar(uri))


def sidecar_text(body: bytes, place: S3Uri | Path) -> str | None:
    """Return the prompt in a sidecar's first `SIDECAR_MAX_BYTES + 1` bytes; `None` if it is blank.

    Raise `Refused` (`prompt_unreadable`) if it is not UTF-8 or too large.
    """
    if len(body) > SIDECAR_MAX_BYTES:
        raise Refused(
            f"The prompt file {place} is larger than {SIDECAR_MAX_BYTES:,} bytes",
            f"A prompt has at most {PROMPT_MAX_CHARS:,} characters",
            "prompt_unreadable",
        )
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"The prompt file {place} is not UTF-8: invalid byte at {error.start}"
        raise Refused(message, "Save it as UTF-8", "prompt_unreadable") from None
    return text if text.strip() else None


def _is_visible(character: str) -> bool:
    return unicodedata.category(character)[0] in "LNPS" and character not in _BLANK_LETTERS


def build_request(options: RequestOptions, ref: ImageRef) -> Request:
    """Return the request, with the defaults of `Request`.

    Raise `Refused` (`prompt_missing`, `prompt_unreadable`, `prompt_too_long`).
    """
    prompt = clean_prompt(options.prompt or "")
    if not prompt:
        raise Refused(f"{ref.label} {NO_PROMPT}", _HOW_TO_SET_A_PROMPT, "prompt_missing")
    if not any(map(_is_visible, prompt)):
        message = f"The prompt of {ref.label} has no visible character"
        raise Refused(message, _HOW_TO_SET_A_PROMPT, "prompt_missing")
    if controls := _CONTROLS.search(prompt):
        message = f"The prompt of {ref.label} is not text: it contains the control character {controls[0]!a}"
        raise Refused(message, "Save it as UTF-8; NULs are a sign of UTF-16", "prompt_unreadable")
    if len(prompt) > PROMPT_MAX_CHARS:
        raise Refused(
            f"The prompt of {ref.label} is too long: {len(prompt):,} characters; the limit is {PROMPT_MAX_CHARS:,}",
            "Shorten it",
            "prompt_too_long",
        )
    return Request.model_validate({**options.model_dump(exclude_none=True), "prompt": prompt})
