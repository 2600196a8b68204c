"""Where the prompt of an image comes from, and the request that results.

The first of these places that has a prompt wins:

1. the batch file's row, or the row given as a flow parameter
2. the object's metadata `prompt`
3. a sidecar file beside the image: `tom.jpg.txt` for `tom.jpg`
4. the run's prompt: `--prompt`, or the flow's parameter `prompt`
5. the longest matching prefix in `I2V_PROMPTS_BY_PREFIX`
6. `I2V_DEFAULT_PROMPT`

Mode, duration and take follow the same order (1, 2, 4). Prompts of 4 to 6 are templates: `{stem}`, `{key}`, `{folder}`.
With `override_prompts`, 4 goes before 2 and 3.
"""

import re
import unicodedata
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from i2v.errors import NotFound, Refused, UsageError
from i2v.inputs.custom_columns import CustomColumns, Pairs, columns_in_metadata, metadata_of_columns
from i2v.inputs.metadata_text import METADATA_MAX_BYTES, decode_metadata, encode_metadata
from i2v.inputs.prompt_templates import check_templates, prefix_template, render_prompt
from i2v.media.images import ImageRef, is_text
from i2v.pricing import PRO_SECONDS
from i2v.request import PROMPT_MAX_CHARS, Duration, Mode, Request, clean_prompt
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri
from i2v.settings import Settings

SIDECAR_SUFFIX = ".txt"
SIDECAR_MAX_BYTES = 65_536
"""Our own limit: far above any prompt, far below most files that have such a name by mistake."""
PROMPT_RULES = frozenset({"prompt_missing", "prompt_unreadable", "prompt_too_long", "metadata_invalid", "request"})
"""The rules of `Refused` that another prompt fulfills."""
_CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")
"""Control characters that no one types: all but white space."""
_BLANK_LETTERS = frozenset("\u115f\u1160\u2800\u3164\uffa0")
"""Letters and symbols that Unicode shows as blanks."""
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


class PromptSource(StrEnum):
    """Where a prompt is from: the places 1 to 6."""

    COLUMN = "column"
    METADATA = "metadata"
    SIDECAR = "sidecar"
    FLAG = "flag"
    PREFIX = "prefix"
    DEFAULT = "default"


class RequestOptions(BaseModel):
    """The request options that one place sets. `None` and blank text mean not set."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    prompt: Annotated[str | None, _Blank, AfterValidator(_text)] = None
    mode: Annotated[Mode | None, _Blank] = None
    duration: Annotated[Duration | None, _Blank] = None
    """Seconds; ignored for pro, which is always 6 s."""
    take: Annotated[int | None, Field(ge=1), _Blank] = None
    prompt_source: Annotated[PromptSource | None, _Blank] = None
    """Of a row that does not say it, the row itself."""
    extra: CustomColumns = ()
    """The image's custom columns."""

    def over(self, lower: "RequestOptions") -> "RequestOptions":
        """Return these options, with unset fields and further custom columns taken from `lower`."""
        given = self.model_dump(include=set(Request.model_fields), exclude_none=True)
        source = {"prompt_source": self.prompt_source} if "prompt" in given else {}
        extra = tuple((dict(lower.extra) | dict(self.extra)).items())
        return RequestOptions.model_construct(**{**dict(lower), **given, **source, "extra": extra})


class RunOptions(RequestOptions):
    """The options of a run, for images without their own."""

    override_prompts: bool = False
    """Whether they also replace those in an object's metadata and sidecar. A row keeps its own."""


async def options_of_object(
    row: RequestOptions, ref: ImageRef, metadata: Mapping[str, str], storage: Storage, *, may_have_sidecar: bool = True
) -> RequestOptions:
    """Return the options from places 1 to 3. Raise `Refused` if the metadata or the sidecar is invalid.

    A row with all options does not need the others. The object's custom columns are added to the row's.
    """
    row = row.over(RequestOptions(extra=columns_in_metadata(metadata, ref.label)))
    if None in (row.prompt, row.mode, row.duration, row.take):
        row = row.over(metadata_options(metadata, ref.label))
    if row.prompt is None and may_have_sidecar and ref.uri:
        prompt = await read_sidecar(storage, ref.uri)
        row = row.over(RequestOptions(prompt=prompt, prompt_source=PromptSource.SIDECAR))
    return row


def row_options(row: RequestOptions, default: RequestOptions, ref: ImageRef, settings: Settings) -> RequestOptions:
    """Return the options of place 1, and also those of place 4 if they override the object's own."""
    overrides = isinstance(default, RunOptions) and default.override_prompts
    return row.over(_rendered(default, ref, settings)) if overrides else row


def default_options(default: RequestOptions, ref: ImageRef, settings: Settings) -> RequestOptions:
    """Return the options from places 4 to 6: the run's, with the prompt rendered for this image."""
    template, source = default.prompt, default.prompt_source
    if template is None:
        template, source = prefix_template(ref, settings), PromptSource.PREFIX
    if template is None:
        template, source = settings.default_prompt, PromptSource.DEFAULT
    return _rendered(default.model_copy(update={"prompt": template, "prompt_source": source}), ref, settings)


def _rendered(run: RequestOptions, ref: ImageRef, settings: Settings) -> RequestOptions:
    if run.prompt is None:
        return run
    prompt = render_prompt(run.prompt, ref, settings.images)
    return run.model_copy(update={"prompt": prompt, "prompt_source": run.prompt_source or PromptSource.FLAG})


def overridden_options(request: Request, default: RequestOptions, ref: ImageRef, settings: Settings) -> tuple[str, ...]:
    """Return the names of the run's options that this image's own replace; those at their defaults do not count."""
    run = _rendered(default, ref, settings)
    given = {"prompt": clean_prompt(run.prompt or ""), "mode": run.mode, "duration": run.duration, "take": run.take}
    set_by_run = {name: value for name, value in given.items() if value and value != Request.model_fields[name].default}
    return tuple(name for name, value in set_by_run.items() if value != getattr(request, name))


def check_options(default: RequestOptions, settings: Settings) -> None:
    """Raise `UsageError` if the run's options contradict each other, or a prompt is an invalid template."""
    if default.mode is Mode.PRO and default.duration not in (None, PRO_SECONDS):
        raise UsageError(
            f"pro is always {PRO_SECONDS} s, not {default.duration} s", "Omit the duration, or use standard"
        )
    check_templates(default.prompt, settings)


def request_metadata(request: Request, extra: Pairs = ()) -> dict[str, str] | None:
    """Return the request and custom columns as object metadata, or `None` if they are too long for that."""
    prompt, columns = encode_metadata(request.prompt), metadata_of_columns(extra)
    if prompt is None or columns is None:
        return None
    metadata = {"prompt": prompt, "mode": str(request.mode), "duration": str(request.duration), **columns}
    metadata |= {"take": str(request.take)} if request.take > 1 else {}
    size = sum(len(name) + len(value) for name, value in metadata.items())
    return metadata if size <= METADATA_MAX_BYTES else None


def metadata_options(metadata: Mapping[str, str], label: str = "The image") -> RequestOptions:
    """Return the options in an object's metadata: the inverse of `request_metadata`.

    Metadata without a `prompt` is ignored: other tools store their own `mode` (s3fs: the file's permissions).
    Raise `Refused` (`metadata_invalid`) for an invalid value.
    """
    values = {name: decode_metadata(metadata.get(name, "")) for name in Request.model_fields}
    if not values["prompt"].strip():
        return RequestOptions()
    values |= {name: value.strip() for name, value in values.items() if name != "prompt"}
    try:
        return RequestOptions.model_validate({**values, "prompt_source": PromptSource.METADATA})
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
    given = options.model_dump(include=set(Request.model_fields), exclude_none=True)
    return Request.model_validate({**given, "prompt": prompt})
