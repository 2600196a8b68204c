"""What goes wrong on order: `Fault` says what, to whom and how often; `ScriptedFaults` is the list of what waits.

How each looks on the wire is in `mishaps`; what a task or callback makes of it is in `world` and `courier`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Endpoint = Literal["submit", "status", "balance", "file", "image", "task", "callback"]

DONE_FIRST = {
    "lost_answer": "what was asked is done, then the connection is closed without an answer",
    "reset_answer": "the same, with a TCP reset",
    "late": "done, answered after `seconds`",
    "drip": "done, the answer's body comes in small pieces over `seconds`",
    "cut": "done, the answer promises more bytes than it brings and ends half way",
    "garbage": "done, answered 200 with a body that is no JSON",
    "not_http": "done, answered with bytes that are no HTTP",
    "empty": "done, answered 200 with an empty body",
    "html": "done, answered 200 with an HTML page",
}
NOTHING_DONE = {
    "answer": "`status` with the vendor's envelope, or with `document` as JSON, or with `body` as it is",
    "drop": "the connection is closed without an answer",
    "reset": "the same, with a TCP reset",
    "hang": "never answered; with `seconds` the connection is dropped then",
}
ON_WIRE = NOTHING_DONE | DONE_FIRST
KINDS: dict[str, dict[str, str]] = {
    "submit": ON_WIRE
    | {
        "no_task_id": "done, answered 200 without a task id",
        "fail_code": "nothing done, answered 200 with `code` as fail code in place of a task id",
        "after_callback": "done, answered once the task's callback was delivered",
    },
    "status": ON_WIRE | {"expired_url": "a result link that is already over"},
    "balance": ON_WIRE,
    "file": ON_WIRE
    | {
        "truncated": "the first 70 % of the file, as if that were all",
        "jpeg": "a JPEG under the video's name and type",
    },
    "image": {"fails": "the task fails with `code`", "late": "fetched after `seconds`"},
    "task": {
        "fails": "it fails with `code` and `message` when it would have ended",
        "state": "while it runs its state is called `state`",
        "stuck": "it never ends",
        "bare": "it ends without completeTime and costTime",
        "wrong_size": "the video's short side is `pixels`",
        "wrong_length": "the video takes `seconds`",
    },
    "callback": {
        "lost": "never sent",
        "late": "sent after `seconds`",
        "double": "sent twice at once",
        "forged": "before the real one comes one that tells of another task and another file",
        "disordered": "after the real one comes one that still says processing",
    },
}


class Fault(BaseModel):
    """One thing that goes wrong: `Fault(on="submit", kind="lost_answer", times=1)`.

    Of the conditions all must hold; `prompt` and `image` are looked for in the order's prompt and image URL.
    `accepted` decides against the kind's habit whether what was asked is done, so that a submit answered 504 or never
    may be billed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    on: Endpoint
    kind: str
    times: int | None = Field(default=1, gt=0)
    """How often; None is always."""
    skip: int = Field(default=0, ge=0)
    """How many that match are left in peace first."""
    probability: float = Field(default=1, ge=0, le=1)
    seed: int = 0
    task_id: str | None = None
    prompt: str | None = None
    image: str | None = None

    accepted: bool | None = None
    status: int = Field(default=500, ge=200, le=599)
    message: str | None = None
    document: Any = None
    body: str | None = None
    content_type: str = "text/html"
    retry_after: str | None = None
    """As it is sent: seconds or a date."""
    seconds: float | None = Field(default=None, ge=0)
    pixels: int = Field(default=480, gt=0)
    code: str | None = None
    state: str = "pending"

    @model_validator(mode="after")
    def _kind_is_known(self) -> Self:
        if self.kind not in KINDS[self.on]:
            raise ValueError(f"{self.on} knows no {self.kind!r}, but {', '.join(KINDS[self.on])}")
        return self

    @property
    def is_done_first(self) -> bool:
        """Whether what was asked is done although the answer goes wrong."""
        untouched = self.kind in NOTHING_DONE or self.kind == "fail_code"
        return not untouched if self.accepted is None else self.accepted


@dataclass(frozen=True)
class FaultTarget:
    """Who comes: what a fault's conditions are held against."""

    endpoint: str
    task_id: str | None = None
    prompt: str = ""
    image: str = ""

    def meets(self, fault: Fault) -> bool:
        """Whether the fault's conditions hold."""
        return (
            fault.on == self.endpoint
            and fault.task_id in (None, self.task_id)
            and (fault.prompt or "") in self.prompt
            and (fault.image or "") in self.image
        )


class ScriptedFault:
    """A fault that waits for its time. `hits` counts how often it struck."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.seen = 0
        self.hits = 0
        self._dice = random.Random(fault.seed)  # noqa: S311 - chance that can be repeated

    def strikes(self, visit: FaultTarget) -> bool:
        """Whether it is this visit's turn."""
        if not visit.meets(self.fault) or (self.fault.times is not None and self.hits >= self.fault.times):
            return False
        self.seen += 1
        if self.seen <= self.fault.skip or self._dice.random() >= self.fault.probability:
            return False
        self.hits += 1
        return True


class ScriptedFaults:
    """All scripts, in order; the first that strikes is the one."""

    def __init__(self) -> None:
        self.scripts: list[ScriptedFault] = []

    def add(self, fault: Fault) -> ScriptedFault:
        """Put one at the end of the list."""
        script = ScriptedFault(fault)
        self.scripts.append(script)
        return script

    def strike(self, visit: FaultTarget) -> Fault | None:
        """What goes wrong with this visit, if anything."""
        return next((script.fault for script in self.scripts if script.strikes(visit)), None)
