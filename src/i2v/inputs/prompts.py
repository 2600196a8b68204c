"""The prompt of an image: the places it may come from, and the request that comes of them.

Manifest column or parameter, else the object's metadata, else a sidecar `tom.jpg.txt`, else the flow's prompt, else
the longest prefix of `I2V_PROMPTS_BY_PREFIX` that fits, else `I2V_DEFAULT_PROMPT`. Each place says what it knows as
`RequestOptions`, and `over` lays one above the other, field by field. Only the last three are templates. Metadata holds
printable ASCII alone, so other texts lie there as RFC 2047 words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from email.charset import SHORTEST, Charset
from email.errors import MessageError
from email.header import decode_header
from pathlib import Path, PurePosixPath
from string import Formatter
from typing import Annotated
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from i2v.errors import NotFound, Refused, UsageError
from i2v.media.images import ImageRef, is_text
from i2v.request import PROMPT_MAX_CHARS, Duration, Mode, Request, clean_prompt
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri
from i2v.settings import Settings

SIDECAR_SUFFIX = ".txt"
SIDECAR_MAX_BYTES = 65_536
"""Ours: far more than any prompt, far less than a file that was named so by mistake."""
METADATA_MAX_BYTES = 2048
"""S3's limit for all names and values of an object together."""
_PLAIN = re.compile(r"(?:[!-~]+(?: [!-~]+)*)?")
"""What every server keeps as it is: no line ends, no spaces at the ends or doubled."""
FIELDS = ("stem", "key", "folder")
"""What a template knows of its image."""
PLACES = (
    "Give one with --prompt or the flow's `prompt`, a manifest's column `prompt`, the object's metadata `prompt`, "
    "a file beside the image (tom.jpg.txt), I2V_PROMPTS_BY_PREFIX or I2V_DEFAULT_PROMPT"
)


def _blank_is_none(value: object) -> object:
    return None if isinstance(value, str) and not value.strip() else value


def _text(value: str | None) -> str | None:
    if value and not is_text(value):
        raise ValueError("it holds broken characters (half a surrogate pair); save it as UTF-8")
    return value


_Blank = BeforeValidator(_blank_is_none)
AskedPrompt = Annotated[str | None, _Blank, AfterValidator(_text)]
AskedMode = Annotated[Mode | None, _Blank]
AskedDuration = Annotated[Duration | None, _Blank]
AskedTake = Annotated[int | None, Field(ge=1), _Blank]


class RequestOptions(BaseModel):
    """What one place says about an image's request; None is silence. Blank texts are silence too."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    prompt: AskedPrompt = None
    mode: AskedMode = None
    duration: AskedDuration = None
    """Seconds; pro is always 6 s, whatever stands here."""
    take: AskedTake = None

    def over(self, lower: RequestOptions) -> RequestOptions:
        """Both together: each field from here, or where this is silent from `lower`."""
        return lower.model_copy(update=self.model_dump(exclude_none=True))


def check_template(template: str) -> None:
    """Prove that a prompt knows only what there is, before any image is looked at.

    Raises:
        UsageError: an unknown field or a lone brace.
    """
    _fill(template, dict.fromkeys(FIELDS, ""))


def check_templates(prompt: str | None, settings: Settings) -> None:
    """Prove the same of the run's prompt, or without one of all prompts that the settings hold.

    Raises:
        UsageError: an unknown field or a lone brace; names the setting that has it.
    """
    if prompt:
        return check_template(prompt)
    for name, template in _default_templates(settings):
        try:
            check_template(template)
        except UsageError as error:
            raise UsageError(f"{name}: {error.message}", error.hint) from None
    return None


def _default_templates(settings: Settings) -> Iterator[tuple[str, str]]:
    for prefix, template in settings.prompts_by_prefix.items():
        yield f"I2V_PROMPTS_BY_PREFIX, {prefix!r}", template
    yield "I2V_DEFAULT_PROMPT", settings.default_prompt or ""


def default_template(ref: ImageRef, settings: Settings) -> str | None:
    """The settings' prompt for an image that brings none: by the longest prefix that fits, else the default.

    Prefixes are of keys below the images prefix; an image in another place, or of a URL, has none.
    """
    below = ref.uri is not None and settings.images.holds(ref.uri)
    key = _key(ref, settings.images)
    fitting = [prefix for prefix in settings.prompts_by_prefix if below and key.startswith(prefix)]
    return settings.prompts_by_prefix[max(fitting, key=len)] if fitting else settings.default_prompt


def render_prompt(template: str, ref: ImageRef, images: S3Uri) -> str:
    """Fill `{stem}`, `{key}` and `{folder}`; `{{` and `}}` are literal braces.

    Under the images prefix, key and folder are relative to it; of a URL they are its path.

    Raises:
        UsageError: an unknown field or a lone brace.
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
        parts = list(Formatter().parse(template))
    except ValueError:
        raise UsageError("The prompt has a lone brace", _template_hint()) from None
    return "".join(text + _value(name, spec, conversion, values) for text, name, spec, conversion in parts)


def _value(name: str | None, spec: str | None, conversion: str | None, values: dict[str, str]) -> str:
    if name is None:
        return ""
    if name in values and not spec and not conversion:
        return values[name]
    written = name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
    raise UsageError(f"The prompt asks for {{{written}}}, which is not known", _template_hint())


def _template_hint() -> str:
    known = ", ".join(f"{{{name}}}" for name in FIELDS)
    return f"Known are {known}; write {{{{ and }}}} for braces"


def encode_metadata(text: str) -> str | None:
    """The text as it can stand in a header: itself, or an RFC 2047 encoded word as S3 makes them. None: too long."""
    if _PLAIN.fullmatch(text) and "=?" not in text:
        encoded = text
    else:
        charset = Charset("utf-8")
        charset.header_encoding = SHORTEST
        encoded = str(charset.header_encode(text))
    return encoded if len(encoded) <= METADATA_MAX_BYTES else None


def decode_metadata(text: str) -> str:
    """The text that a header means; one that cannot be decoded is taken literally."""
    if not text.isascii():
        return _as_utf8(text)
    if "=?" not in text:
        return text
    try:
        return "".join(_decoded(part, charset) for part, charset in decode_header(text))
    except (MessageError, LookupError, ValueError):
        return text


def _decoded(part: str | bytes, charset: str | None) -> str:
    return part if isinstance(part, str) else part.decode(charset or "ascii")


def _as_utf8(text: str) -> str:
    """HTTP headers are read as Latin-1; some servers send UTF-8."""
    try:
        return text.encode("latin-1").decode()
    except ValueError:
        return text


def request_metadata(request: Request) -> dict[str, str] | None:
    """Prompt, mode, duration, and take where above 1, for the object's metadata; None where it does not fit."""
    prompt = encode_metadata(request.prompt)
    if prompt is None:
        return None
    metadata = {"prompt": prompt, "mode": str(request.mode), "duration": str(request.duration)}
    metadata |= {"take": str(request.take)} if request.take > 1 else {}
    size = sum(len(name) + len(value) for name, value in metadata.items())
    return metadata if size <= METADATA_MAX_BYTES else None


def asked_in_metadata(metadata: Mapping[str, str], label: str = "The image") -> RequestOptions:
    """Read back what `request_metadata` or a person wrote.

    Without a `prompt` nothing is read: other tools keep things of their own under `mode` (s3fs: the file's rights).

    Raises:
        Refused: `metadata_invalid`; names `label`, the field and its value.
    """
    found = {
        name: decode_metadata(metadata[name]) for name in RequestOptions.model_fields if metadata.get(name, "").strip()
    }
    if "prompt" not in found:
        return RequestOptions()
    try:
        return RequestOptions.model_validate(
            {name: value if name == "prompt" else value.strip() for name, value in found.items()}
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        raise Refused(
            f"{label} has metadata {name}={found[name][:40]!r}: {first['msg']}",
            "Correct the object's metadata, or remove it",
            "metadata_invalid",
        ) from None


def sidecar(uri: S3Uri) -> S3Uri:
    """Where an image's prompt may lie beside it: `tom.jpg` has `tom.jpg.txt`."""
    return uri / SIDECAR_SUFFIX


async def read_sidecar(storage: Storage, uri: S3Uri) -> str | None:
    """Read the prompt beside the image at `uri`; None where there is none, or a blank one.

    Raises:
        Refused: `prompt_unreadable`, since it is no UTF-8 text or over 64 KiB.
        StorageError: S3 did not answer well.
    """
    place = sidecar(uri)
    try:
        body = (await storage.get(place, limit=SIDECAR_MAX_BYTES)).body
    except NotFound:
        return None
    return sidecar_text(body, place)


def sidecar_text(body: bytes, place: S3Uri | Path) -> str | None:
    """The prompt in a text file, of which at most `SIDECAR_MAX_BYTES + 1` were read; None where it is blank.

    Raises:
        Refused: `prompt_unreadable`.
    """
    if len(body) > SIDECAR_MAX_BYTES:
        raise Refused(
            f"The prompt at {place} is over {SIDECAR_MAX_BYTES:,} bytes",
            f"A prompt has at most {PROMPT_MAX_CHARS:,} characters",
            "prompt_unreadable",
        )
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"The prompt at {place} is no UTF-8 text: byte {error.start} cannot be read"
        raise Refused(message, "Save it as UTF-8", "prompt_unreadable") from None
    return text if text.strip() else None


def build_request(asked: RequestOptions, ref: ImageRef) -> Request:
    """Make the request, with standard, 6 s and take 1 where no place said otherwise. Pro is 6 s, whatever was said.

    Raises:
        Refused: `prompt_missing` or `prompt_too_long`.
    """
    prompt = clean_prompt(asked.prompt or "")
    if not prompt:
        raise Refused(f"{ref.label} has no prompt", PLACES, "prompt_missing")
    if len(prompt) > PROMPT_MAX_CHARS:
        raise Refused(
            f"The prompt of {ref.label} is too long: {len(prompt):,} characters, and the limit is {PROMPT_MAX_CHARS:,}",
            "Shorten it",
            "prompt_too_long",
        )
    return Request(mode=asked.mode or Mode.STANDARD, duration=asked.duration or 6, prompt=prompt, take=asked.take or 1)
