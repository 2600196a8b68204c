"""Every error that i2v raises, as one tree. A new one goes under the parent that tells what it does to the money.

I2vError                     what happened; `hint` says what to do; `exit_code` is the command's
├── UsageError               2  what was typed or configured is wrong
├── Stopped                  3  a run stopped before its first submit
│   ├── NoImages                nothing to do: no image found, or none valid
│   ├── LedgerError             the ledger cannot be read, written or trusted
│   ├── BudgetExceeded          a spending limit of ours forbids it
│   ├── BalanceTooLow           the provider's balance does not cover it
│   └── Paused                  a person has paused all submits
├── NotTried                    this run may not submit any more; nothing was paid for this image
├── CannotResolve               a job is not in a state that a person could resolve so
├── RunFailed                   a run ended with something failed, unknown or not tried; has the report
├── Refused                     this image or prompt will never work as it is: an outcome, free of charge
├── StorageError                S3 did not do what it was asked
│   ├── NoBucket                the bucket does not exist
│   ├── NotFound                the object does not exist
│   ├── ImageChanged            an image was replaced between two looks at it
│   └── Conflict                a conditional write lost (412, 409)
├── FetchError                  a URL could not be fetched, or may not be
├── BrokenVideo                 a delivered file is no whole mp4
└── ProviderError               the provider, or the way to it; `code` is its word or number
    ├── NothingSent             no connection: safe to send again
    ├── Busy                    429, or 500, 502, 503 in the vendor's words: safe to send again after `retry_after`
    ├── Rejected                400, 404: this request will not be taken; nothing was paid
    │   └── ContentRejected     the vendor's moderation says no to the image or prompt
    ├── AccountRejected         401, 402, 403: no request of this account will be taken; nothing was paid
    ├── TaskRejected            a fail code in place of a task id: not repeated; may have been billed
    ├── AnswerLost              it may have been paid: never sent again
    └── BadAnswer               an answer to a free call that breaks the contract
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, ClassVar, Self


class ExitCode(IntEnum):
    """How a command ends, and what each code means in `--help` and in the documents."""

    OK = 0, "all stored, cached, refused or awaiting a callback; or a dry run"
    FAILED = 1, "something failed, is unknown, was not tried or is still open"
    USAGE = 2, "wrong usage or settings"
    STOPPED = 3, "stopped before the first submit (budget, balance, ledger, no valid image)"
    INTERRUPTED = 130, "Ctrl-C"
    TERMINATED = 143, "SIGTERM"

    meaning: str

    def __new__(cls, code: int, meaning: str) -> Self:
        """Keep the meaning beside the number."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member


class I2vError(Exception):
    """The root. Positional arguments only, so that it survives pickling.

    Args:
        message: what is wrong and where, in a sentence without a secret.
        hint: what to do about it.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.FAILED
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}" if self.hint else self.message


class UsageError(I2vError):
    """What was typed or configured is wrong."""

    exit_code = ExitCode.USAGE


class Stopped(I2vError):
    """A run stopped before its first submit: nothing was paid."""

    exit_code = ExitCode.STOPPED


class NoImages(Stopped):
    """No image was found, or none is valid."""


class LedgerError(Stopped):
    """The ledger cannot be read, written or trusted, so nothing may be submitted."""


class BudgetExceeded(Stopped):
    """`max_spend_usd` or the daily cap forbids it."""


class BalanceTooLow(Stopped):
    """The provider's balance does not cover the run."""


class Paused(Stopped):
    """A person has paused all submits: `i2v resume` ends it."""


class NotTried(I2vError):
    """This run may not submit any more; nothing was paid for this image."""


class CannotResolve(I2vError):
    """A job is not in a state that a person could resolve so."""

    exit_code = ExitCode.USAGE


class RunFailed(I2vError):
    """A run ended with something failed, unknown or not tried.

    Args:
        message: the report in words.
        report: the object of `i2v run --json`.
    """

    def __init__(self, message: str, report: dict[str, Any]) -> None:
        super().__init__(message)
        self.args = (message, report)
        self.report = report


class Refused(I2vError):
    """An image or prompt that will never work as it is.

    Args:
        message: names the image, the rule and the measured value.
        hint: what would work.
        rule: the rule's short name, such as `ratio` or `prompt_missing`.
    """

    def __init__(self, message: str, hint: str = "", rule: str = "") -> None:
        super().__init__(message, hint)
        self.args = (message, hint, rule)
        self.rule = rule


class StorageError(I2vError):
    """S3 did not do what it was asked."""

    retryable = True


class NoBucket(StorageError):
    """The bucket does not exist."""

    retryable = False


class NotFound(StorageError):
    """The object does not exist."""

    retryable = False


class ImageChanged(StorageError):
    """An image was replaced between two looks at it; nothing was paid."""


class Conflict(StorageError):
    """A conditional write lost against another writer."""


class FetchError(I2vError):
    """A URL could not be fetched, or may not be.

    Args:
        message: names the URL without its query.
        hint: what to do about it.
        status: the HTTP status, 0 where there was none.
        forbidden: the address may not be fetched at all.
    """

    def __init__(self, message: str, hint: str = "", status: int = 0, forbidden: bool = False) -> None:
        super().__init__(message, hint)
        self.args = (message, hint, status, forbidden)
        self.status = status
        self.forbidden = forbidden


class BrokenVideo(I2vError):
    """A delivered file is no whole mp4; it is never published."""


class ProviderError(I2vError):
    """The provider, or the way to it.

    Args:
        message: names the request (method and path) and what came back.
        hint: what to do about it.
        code: the vendor's fail code, else the HTTP status, else the exception's name.
        retry_after: seconds that the provider asked to wait, if it did.
        status: the HTTP status, or the code in the vendor's envelope where it says more; 0 where there was none.
    """

    def __init__(
        self, message: str, hint: str = "", code: str = "", retry_after: float | None = None, status: int = 0
    ) -> None:
        super().__init__(message, hint)
        self.args = (message, hint, code, retry_after, status)
        self.code = code
        self.retry_after = retry_after
        self.status = status


class NothingSent(ProviderError):
    """No connection came about (refused, DNS, TLS, no free connection): safe to send again."""

    retryable = True


class Busy(ProviderError):
    """Plainly refused for now: 429, or 500, 502, 503 in the vendor's envelope."""

    retryable = True


class Rejected(ProviderError):
    """This request will not be taken (400, 404); nothing was paid."""


class ContentRejected(Rejected):
    """The vendor's moderation says no to the image or the prompt."""


class AccountRejected(ProviderError):
    """No request of this account will be taken (401, 402, 403); nothing was paid."""


class TaskRejected(ProviderError):
    """A fail code came in place of a task id. It is not repeated and may have been billed."""


class AnswerLost(ProviderError):
    """The request was sent and its answer is lost or unreadable: it may have been paid and is never sent again."""


class BadAnswer(ProviderError):
    """An answer to a free call (status, balance) that breaks the contract."""

    retryable = True
