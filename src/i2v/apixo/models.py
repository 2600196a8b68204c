"""The provider's contract: the body of a submit, and a status (docs/provider.md).

Each field has the provider's name, or has it as its alias. What an answer means for the money is in `errors`.
"""

import json
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictStr,
    ValidationError,
    model_validator,
)

from i2v.apixo.answers import Answer, read_task_id
from i2v.apixo.errors import bad_answer
from i2v.request import Duration, Mode, Request

WireMode = Literal["standard-image-to-video", "pro-image-to-video"]
_WIRE_MODES: dict[Mode, WireMode] = {Mode.STANDARD: "standard-image-to-video", Mode.PRO: "pro-image-to-video"}


class _Contract(BaseModel):
    """Frozen; ignores unknown fields, and hides its input in errors, since it may be a signed URL."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", hide_input_in_errors=True, populate_by_name=True, serialize_by_alias=True
    )


class SubmitInput(_Contract):
    """The `input` of a submit. Standard requires `duration`; pro ignores it."""

    mode: WireMode
    prompt: StrictStr = Field(min_length=1)
    image_urls: list[StrictStr] = Field(min_length=1, max_length=1, repr=False)
    duration: Duration | None = None

    @model_validator(mode="after")
    def _standard_needs_its_duration(self) -> Self:
        if self.mode == "standard-image-to-video" and self.duration is None:
            raise ValueError("duration is required with standard-image-to-video: 6 or 10")
        return self


class SubmitBody(_Contract):
    """The body of a submit. `callback_url` is required with `callback`, and allowed only there."""

    request_type: Literal["async", "callback"] = "async"
    callback_url: StrictStr | None = Field(default=None, repr=False)
    provider: StrictStr | None = None
    input: SubmitInput

    @model_validator(mode="after")
    def _callback_needs_its_url(self) -> Self:
        if (self.request_type == "callback") != bool(self.callback_url):
            raise ValueError("callback_url is required with request_type callback, and allowed only there")
        return self

    def wire(self) -> dict[str, Any]:
        """Return the JSON that is sent, without the fields that are not set."""
        return self.model_dump(mode="json", exclude_none=True)


def submit_body(
    request: Request, image_url: str, *, callback_url: str | None = None, route: str | None = None
) -> SubmitBody:
    """Return the body of a submit for one video; with pro, the duration is left out.

    Without a `callback_url` the caller polls. `route` is the field `provider`; None lets the provider choose.
    """
    duration = request.duration if request.mode is Mode.STANDARD else None
    mode = _WIRE_MODES[request.mode]
    return SubmitBody(
        request_type="callback" if callback_url else "async",
        callback_url=callback_url or None,
        provider=route or None,
        input=SubmitInput(mode=mode, prompt=request.prompt, image_urls=[image_url], duration=duration),
    )


class TaskState(StrEnum):
    """A task's state. An unknown one counts as success if it comes with result URLs, else as running."""

    RUNNING = "running"
    SUCCESS = "success"
    FAILED = "failed"


_RUNNING_WORDS = frozenset({"processing", "pending", "processing_r2"})


def _urls(value: object) -> tuple[str, ...]:
    """Return the http(s) URLs in `resultJson`, a string that contains JSON."""
    if isinstance(value, tuple):
        return value
    try:
        result = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return ()
    urls = result.get("resultUrls") if isinstance(result, dict) else None
    return tuple(url.strip() for url in urls if _is_http_url(url)) if isinstance(urls, list) else ()


def _is_http_url(url: object) -> bool:
    return isinstance(url, str) and url.strip().lower().startswith(("https://", "http://"))


def _milliseconds(value: object) -> int | None:
    if isinstance(value, str) and value.strip().isdecimal():
        value = value.strip()
    elif isinstance(value, bool) or not isinstance(value, int | Decimal | float):
        return None
    try:
        return int(value)
    except (ValueError, ArithmeticError):
        return None


def _timestamp(value: object) -> datetime | None:
    if isinstance(value, datetime):
        return value
    number = _milliseconds(value)
    try:
        return datetime.fromtimestamp(number / 1000, UTC) if number and number > 0 else None
    except (ValueError, OverflowError, OSError):
        return None


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty")
    return text


NonBlank = Annotated[StrictStr, AfterValidator(_not_blank)]
Text = Annotated[str, BeforeValidator(lambda value: "" if value is None else str(value))]
Timestamp = Annotated[datetime | None, BeforeValidator(_timestamp)]
"""UTC, from Unix milliseconds; None if absent or invalid, so that a bad time does not lose a paid video."""


class TaskStatus(_Contract):
    """The `data` of a status answer, or of a callback.

    On success there is at least one result URL; they expire and may be signed. `cost_ms` is the processing time.
    """

    task_id: Annotated[NonBlank, BeforeValidator(read_task_id)] = Field(alias="taskId")
    raw_state: NonBlank = Field(alias="state")
    result_urls: Annotated[tuple[str, ...], BeforeValidator(_urls)] = Field(default=(), alias="resultJson", repr=False)
    fail_code: Text = Field("", alias="failCode")
    fail_message: Text = Field("", alias="failMsg")
    created_at: Timestamp = Field(default=None, alias="createTime")
    completed_at: Timestamp = Field(default=None, alias="completeTime")
    cost_ms: Annotated[int | None, BeforeValidator(_milliseconds)] = Field(default=None, alias="costTime")

    @property
    def state(self) -> TaskState:
        """The state that counts."""
        if self._word in {TaskState.SUCCESS, TaskState.FAILED}:
            return TaskState(self._word)
        return TaskState.SUCCESS if self.unknown_state and self.result_urls else TaskState.RUNNING

    @property
    def unknown_state(self) -> str | None:
        """The provider's word for the state, if it is one that i2v does not know."""
        return None if self._word in _RUNNING_WORDS | {TaskState.SUCCESS, TaskState.FAILED} else self.raw_state

    @property
    def _word(self) -> str:
        return self.raw_state.strip().lower()

    @model_validator(mode="after")
    def _success_has_a_video(self) -> Self:
        if self.state is TaskState.SUCCESS and not self.result_urls:
            raise ValueError("success without a usable URL in resultJson")
        return self


def task_status(answer: Answer, task_id: str) -> TaskStatus:
    """Parse the answer to a status request; raise BadAnswer if it breaks the contract or is about another task."""
    data = answer.envelope.data if answer.envelope else None
    if not isinstance(data, dict):
        raise bad_answer(answer, "without an object in data")
    try:
        status = TaskStatus.model_validate(data)
    except ValidationError as error:
        raise bad_answer(answer, _first_error(error)) from None
    if status.task_id != task_id:
        raise bad_answer(answer, "for another task than the requested one")
    redacted = {name: answer.redact(getattr(status, name)) for name in ("raw_state", "fail_code", "fail_message")}
    return status.model_copy(update=redacted)


def _first_error(error: ValidationError) -> str:
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else first["msg"]
