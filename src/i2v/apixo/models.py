"""The vendor's contract, word for word: what a submit sends and answers, what a status says.

A field here has the vendor's name as its alias. What an answer means for the money is in `errors`.
"""

from __future__ import annotations

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

from i2v.apixo.answers import Answer
from i2v.apixo.errors import bad_answer
from i2v.request import Duration, Mode, Request

WireMode = Literal["standard-image-to-video", "pro-image-to-video"]
_WIRE_MODES: dict[Mode, WireMode] = {Mode.STANDARD: "standard-image-to-video", Mode.PRO: "pro-image-to-video"}


class _Contract(BaseModel):
    """Frozen, deaf to fields it does not know, and silent about its input, which may be a signed URL."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", hide_input_in_errors=True, populate_by_name=True, serialize_by_alias=True
    )


class SubmitInput(_Contract):
    """The `input` of a submit: exactly one image URL; `duration` with standard only, where it must be."""

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
    """The body of a submit; `callback_url` with `callback` only, where it must be."""

    request_type: Literal["async", "callback"] = "async"
    callback_url: StrictStr | None = Field(default=None, repr=False)
    provider: StrictStr | None = None
    input: SubmitInput

    @model_validator(mode="after")
    def _callback_needs_its_url(self) -> Self:
        if (self.request_type == "callback") != bool(self.callback_url):
            raise ValueError("callback_url belongs to request_type callback, and there it is required")
        return self

    def wire(self) -> dict[str, Any]:
        """What is sent: without the fields that are not set."""
        return self.model_dump(mode="json", exclude_none=True)


def submit_body(
    request: Request, image_url: str, *, callback_url: str | None = None, route: str | None = None
) -> SubmitBody:
    """The body that orders one video.

    Args:
        request: mode, seconds and prompt; pro leaves the seconds out, since the vendor ignores them.
        image_url: where the provider can fetch the image.
        callback_url: where the provider shall post the end; None to poll.
        route: the vendor's `provider` (auto, value, official); None leaves it to the vendor.
    """
    standard = request.mode is Mode.STANDARD
    return SubmitBody(
        request_type="callback" if callback_url else "async",
        callback_url=callback_url or None,
        provider=route or None,
        input=SubmitInput(
            mode=_WIRE_MODES[request.mode],
            prompt=request.prompt,
            image_urls=[image_url],
            duration=request.duration if standard else None,
        ),
    )


class TaskReference(_Contract):
    """The `data` of a submit's answer."""

    task_id: StrictStr = Field(alias="taskId", min_length=1)


class SubmitAnswer(_Contract):
    """The answer to a submit that was accepted."""

    code: Literal[200] = 200
    message: StrictStr = "success"
    data: TaskReference


class TaskState(StrEnum):
    """A task's state. A word of the vendor's that is not known is still running."""

    RUNNING = "running"
    SUCCESS = "success"
    FAILED = "failed"


def _urls(value: object) -> tuple[str, ...]:
    """The URLs in `resultJson`, a string that holds JSON; nothing usable is an empty tuple."""
    if isinstance(value, tuple):
        return value
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return ()
    urls = found.get("resultUrls") if isinstance(found, dict) else None
    return tuple(url.strip() for url in urls if _usable(url)) if isinstance(urls, list) else ()


def _usable(url: object) -> bool:
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


def _moment(value: object) -> datetime | None:
    if isinstance(value, datetime):
        return value
    number = _milliseconds(value)
    try:
        return datetime.fromtimestamp(number / 1000, UTC) if number and number > 0 else None
    except (ValueError, OverflowError, OSError):
        return None


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("it is empty")
    return text


Word = Annotated[StrictStr, AfterValidator(_not_blank)]
Moment = Annotated[datetime | None, BeforeValidator(_moment)]
"""UTC, from Unix milliseconds. None if absent, and if nonsense: a paid video is not lost to a bad clock."""


class TaskStatus(_Contract):
    """The `data` of a status answer, or of a callback.

    Attributes:
        raw_state: the vendor's own word for the state.
        result_urls: where the videos are; never empty on success. Short-lived and perhaps signed.
        cost_ms: the vendor's processing time.
    """

    task_id: Word = Field(alias="taskId")
    raw_state: Word = Field(alias="state")
    result_urls: Annotated[tuple[str, ...], BeforeValidator(_urls)] = Field(default=(), alias="resultJson", repr=False)
    fail_code: Annotated[str, BeforeValidator(lambda v: "" if v is None else str(v))] = Field("", alias="failCode")
    fail_message: Annotated[str, BeforeValidator(lambda v: "" if v is None else str(v))] = Field("", alias="failMsg")
    created_at: Moment = Field(default=None, alias="createTime")
    completed_at: Moment = Field(default=None, alias="completeTime")
    cost_ms: Annotated[int | None, BeforeValidator(_milliseconds)] = Field(default=None, alias="costTime")

    @property
    def state(self) -> TaskState:
        """Running, success or failed."""
        word = self.raw_state.strip().lower()
        return TaskState(word) if word in {TaskState.SUCCESS, TaskState.FAILED} else TaskState.RUNNING

    @model_validator(mode="after")
    def _success_has_a_video(self) -> Self:
        if self.state is TaskState.SUCCESS and not self.result_urls:
            raise ValueError("success without a usable URL in resultJson")
        return self


def task_status(answer: Answer, task_id: str) -> TaskStatus:
    """Read the answer to a status request for this task.

    Raises:
        BadAnswer: it breaks the contract, or is about another task.
    """
    data = answer.envelope.data if answer.envelope else None
    if not isinstance(data, dict):
        raise bad_answer(answer, "without an object in data")
    try:
        status = TaskStatus.model_validate(data)
    except ValidationError as error:
        raise bad_answer(answer, _first_fault(error)) from None
    if status.task_id != task_id:
        raise bad_answer(answer, "about another task than the one asked for")
    words = {name: answer.shown(getattr(status, name)) for name in ("raw_state", "fail_code", "fail_message")}
    return status.model_copy(update=words)


def _first_fault(error: ValidationError) -> str:
    fault = error.errors(include_input=False, include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in fault["loc"])
    return f"{where}: {fault['msg']}" if where else fault["msg"]
