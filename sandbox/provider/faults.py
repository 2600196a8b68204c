"""Scripted faults: `Fault` says what goes wrong, for which requests and how often; `ScriptedFaults` is the queue.

`fault_effects` applies those of HTTP responses; `emulator` and `callback_sender` apply those of tasks and callbacks.
"""

import random
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from pydantic import Base64Bytes, BaseModel, ConfigDict, Field, model_validator

Endpoint = Literal["submit", "status", "balance", "file", "image", "task", "callback"]

REQUEST_HANDLED = {
    "lost_answer": "handle the request, then close the connection without a response",
    "reset_answer": "the same, with a TCP reset",
    "late": "respond after `seconds`",
    "cut": "send half of the announced body, then close",
    "garbage": "respond 200 with a body that is not JSON",
    "not_http": "respond with bytes that are not HTTP",
    "empty": "respond 200 with an empty body",
    "html": "respond 200 with an HTML page",
}
REQUEST_NOT_HANDLED = {
    "answer": "respond `status` with the vendor's envelope, or `document` as JSON, or `body` verbatim",
    "drop": "close the connection without a response",
    "reset": "the same, with a TCP reset",
}
HTTP_KINDS = REQUEST_NOT_HANDLED | REQUEST_HANDLED
KINDS: dict[str, dict[str, str]] = {
    "submit": HTTP_KINDS
    | {
        "no_task_id": "handle the request, respond 200 without a task id",
        "fail_code": "respond 200 with `code` as fail code instead of a task id, without handling the request",
        "after_callback": "handle the request, respond after the task's callback was delivered",
    },
    "status": HTTP_KINDS | {"expired_url": "return a result URL that has expired"},
    "balance": HTTP_KINDS,
    "file": HTTP_KINDS
    | {
        "truncated": "send the first 70 % of the file as a complete response",
        "jpeg": "send a JPEG under the video's name and type",
        "deliver": "send `head`, then the file, or `content` in its place, packed with `coding`, and close",
    },
    "image": {"fails": "fail the task with `code`", "late": "fetch the image after `seconds`"},
    "task": {
        "fails": "fail with `code` and `message` when its time is over",
        "state": "report `state` in place of processing and success",
        "wrong_size": "make the video's short side `pixels`",
        "wrong_length": "make the video `seconds` long",
    },
    "callback": {
        "lost": "never send it",
        "late": "send it after `seconds`",
        "double": "send it twice at once",
        "forged": "send one for another task and file first",
        "disordered": "send an older one, still processing, after it",
    },
}


class Fault(BaseModel):
    """One thing that goes wrong: `Fault(on="submit", kind="lost_answer", times=1)`.

    All conditions must hold; `prompt` and `image` are searched for in the submit's prompt and image URL. `accepted`
    overrides whether the request is handled: a submit that is answered 504 may be billed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    on: Endpoint
    kind: str
    times: int | None = Field(default=1, gt=0)
    """How often to apply it; None is always."""
    skip: int = Field(default=0, ge=0)
    """How many matching requests to leave alone first."""
    probability: float = Field(default=1, ge=0, le=1)
    seed: int = 0
    prompt: str | None = None
    image: str | None = None

    accepted: bool | None = None
    status: int = Field(default=500, ge=200, le=599)
    message: str | None = None
    document: Any = None
    body: str | None = None
    content_type: str = "text/html"
    retry_after: str | None = None
    """The header's value: seconds or a date."""
    seconds: float | None = Field(default=None, ge=0)
    pixels: int = Field(default=480, gt=0)
    code: str | None = None
    state: str = "pending"
    head: tuple[str, ...] = ("HTTP/1.1 200 OK", "Content-Length: {length}")
    """Lines of a response, in which {length} and {last} are the body's length and last index, {target} the request's
    path and query."""
    content: Base64Bytes | None = None
    coding: Literal["gzip", "deflate"] | None = None

    @model_validator(mode="after")
    def _kind_is_known(self) -> Self:
        if self.kind not in KINDS[self.on]:
            raise ValueError(f"unknown kind {self.kind!r} for {self.on}; use one of {', '.join(KINDS[self.on])}")
        return self

    @property
    def handles_request(self) -> bool:
        """Whether the request takes effect although its response goes wrong."""
        if self.accepted is not None:
            return self.accepted
        return self.kind not in REQUEST_NOT_HANDLED and self.kind != "fail_code"


@dataclass(frozen=True)
class FaultTarget:
    """What a fault's conditions are checked against: a request, task, image or callback."""

    endpoint: str
    prompt: str = ""
    image: str = ""

    def matches(self, fault: Fault) -> bool:
        """Whether the fault's conditions hold."""
        return fault.on == self.endpoint and (fault.prompt or "") in self.prompt and (fault.image or "") in self.image


@dataclass
class ScriptedFault:
    """A fault in the queue. `hits` counts how often it was applied."""

    fault: Fault
    hits: int = 0
    matches: int = 0

    def __post_init__(self) -> None:
        self._random = random.Random(self.fault.seed)  # noqa: S311 - repeatable chance

    def triggers(self, target: FaultTarget) -> bool:
        """Whether to apply it to this target; counts it if so."""
        if not target.matches(self.fault) or (self.fault.times is not None and self.hits >= self.fault.times):
            return False
        self.matches += 1
        if self.matches <= self.fault.skip or self._random.random() >= self.fault.probability:
            return False
        self.hits += 1
        return True


@dataclass
class ScriptedFaults:
    """All scripted faults in order; the first that triggers is applied."""

    scripted: list[ScriptedFault] = field(default_factory=list)

    def add(self, fault: Fault) -> ScriptedFault:
        """Append a fault."""
        scripted = ScriptedFault(fault)
        self.scripted.append(scripted)
        return scripted

    def next_for(self, target: FaultTarget) -> Fault | None:
        """Return the fault to apply to this target, if any."""
        return next((each.fault for each in self.scripted if each.triggers(target)), None)
