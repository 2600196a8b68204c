"""Every error that i2v raises, as one tree. Put a new one under the parent whose effect on money and retries it shares.

I2vError                     `message` says what happened, `hint` what to do, `exit_code` is the command's
├── UsageError               2  wrong arguments or settings
│   └── BadRows                 rows of a batch file cannot be used; `rows` has all of them
├── Stopped                  3  the run stopped before its first submit; nothing was charged
│   ├── NoImages                no image was found, or none is valid
│   ├── LedgerError             the ledger cannot be read, written or trusted
│   ├── BudgetExceeded          a spending limit does not allow it
│   ├── BalanceTooLow           the provider's balance does not cover the run
│   └── Paused                  submits are paused (i2v pause)
├── NotTried                 this run may not submit any more; nothing was charged for this image
│   └── LimitReached            a spending limit was reached during the run
├── CannotResolve            2  the job's state does not allow this resolution
├── RunFailed                the run has failed, unknown or not tried images; `report` has them
├── Refused                  this image or prompt can never work; an outcome, not charged
├── StorageError             an S3 request failed
│   ├── AccessDenied            the credentials are missing or do not allow it
│   ├── NoBucket                the bucket does not exist
│   ├── NotFound                the object does not exist
│   ├── ImageChanged            the image was replaced after it was checked
│   └── Conflict                a conditional write failed (412, 409)
├── FetchError               a URL could not be fetched, or must not be
├── BrokenVideo              a downloaded file cannot be verified
├── DecoderStopped           decoding took too much time or memory, or crashed
└── ProviderError            a request to the provider failed; `code` is the provider's, or the HTTP status
    ├── NothingSent             no connection: safe to send again
    ├── Busy                    429, or 500, 502, 503 in the provider's envelope: safe to send again
    ├── Rejected                400, 404: this request is not accepted; nothing was charged
    │   └── ContentRejected     the provider's moderation rejects the image or prompt
    ├── AccountRejected         401, 402, 403: no request of this account is accepted; nothing was charged
    ├── TaskRejected            a fail code instead of a task id: possibly charged, never repeated
    ├── AnswerLost              sent, but no readable answer: possibly charged, never sent again
    └── BadAnswer               a status or balance answer that breaks the contract
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, ClassVar, NamedTuple, Self

ROWS_SHOWN = 10


class ExitCode(IntEnum):
    """How a command ends, with the meaning that `--help` and the documents show."""

    OK = 0, "all images are stored, cached, refused, or submitted with --delivery callback; or a dry run"
    FAILED = 1, "an image failed, is unknown, was not tried, or is still submitted"
    USAGE = 2, "wrong usage or settings"
    STOPPED = 3, "stopped before the first submit (budget, balance, ledger, no valid image)"
    INTERRUPTED = 130, "Ctrl-C"
    TERMINATED = 143, "SIGTERM"

    meaning: str

    def __new__(cls, code: int, meaning: str) -> Self:
        """Keep the meaning with the number."""
        member = int.__new__(cls, code)
        member._value_, member.meaning = code, meaning
        return member


class I2vError(Exception):
    """The root. `message` says what happened and to what, in one sentence without secrets; `hint` what to do.

    Subclasses put all their arguments into `args`, so that they can be pickled.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.FAILED
    retryable: bool = False
    """Whether the same call may succeed later."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}" if self.hint else self.message


class UsageError(I2vError):
    """An argument or a setting is wrong."""

    exit_code = ExitCode.USAGE


class BadRow(NamedTuple):
    """What is wrong with a line of a batch file; `column` is empty if it is wrong as a whole."""

    file: str
    line: int
    column: str
    reason: str

    def __str__(self) -> str:
        return (
            f"line {self.line}, column {self.column}: {self.reason}"
            if self.column
            else f"line {self.line}, {self.reason}"
        )


def shown_rows(rows: Sequence[BadRow]) -> str:
    """Return the first ten in words, and how many are left out."""
    more = [f"and {len(rows) - ROWS_SHOWN:,} more"] if len(rows) > ROWS_SHOWN else []
    return "; ".join([*map(str, rows[:ROWS_SHOWN]), *more])


class BadRows(UsageError):
    """Rows of a batch file cannot be used; `rows` has all of them, the message the first."""

    def __init__(self, message: str, hint: str, rows: Sequence[BadRow]) -> None:
        super().__init__(message, hint)
        self.args = (message, hint, rows)
        self.rows = tuple(rows)


class Stopped(I2vError):
    """The run stopped before its first submit."""

    exit_code = ExitCode.STOPPED


class NoImages(Stopped):
    """No image was found, or none is valid."""


class LedgerError(Stopped):
    """The ledger cannot be read, written or trusted, so nothing may be submitted."""


class BudgetExceeded(Stopped):
    """A spending limit does not allow the run."""


class BalanceTooLow(Stopped):
    """The provider's balance does not cover the run."""


class Paused(Stopped):
    """Submits are paused until `i2v resume`."""


class NotTried(I2vError):
    """This run may not submit any more."""


class LimitReached(NotTried):
    """A spending limit was reached during the run."""


class CannotResolve(I2vError):
    """The job's state does not allow this resolution."""

    exit_code = ExitCode.USAGE


class RunFailed(I2vError):
    """A run ended with failed, unknown or not tried images; `report` is the object that `i2v run --json` prints."""

    def __init__(self, message: str, report: dict[str, Any]) -> None:
        super().__init__(message)
        self.args = (message, report)
        self.report = report


class Refused(I2vError):
    """An image or prompt that can never work; `rule` is a short name, such as `ratio` or `prompt_missing`."""

    def __init__(self, message: str, hint: str = "", rule: str = "") -> None:
        super().__init__(message, hint)
        self.args = (message, hint, rule)
        self.rule = rule


class StorageError(I2vError):
    """An S3 request failed."""

    retryable = True


class AccessDenied(StorageError):
    """The credentials are missing or do not allow the request."""

    retryable = False


class NoBucket(StorageError):
    """The bucket does not exist."""

    retryable = False


class NotFound(StorageError):
    """The object does not exist."""

    retryable = False


class ImageChanged(StorageError):
    """The image was replaced after it was checked; nothing was charged."""

    retryable = False


class Conflict(StorageError):
    """A conditional write failed: another writer was first."""


class FetchError(I2vError):
    """A URL could not be fetched, or the address policy does not allow it (`forbidden`).

    `message` names the URL without its query; `status` is the HTTP status, or 0 if there was none.
    """

    def __init__(self, message: str, hint: str = "", status: int = 0, forbidden: bool = False) -> None:
        super().__init__(message, hint)
        self.args = (message, hint, status, forbidden)
        self.status = status
        self.forbidden = forbidden
        self.retryable = not forbidden and (status in {0, 429} or status >= 500)  # noqa: PLR2004


class BrokenVideo(I2vError):
    """A downloaded file is not a complete video. It is published only if it comes again, and then as unverified."""


class DecoderStopped(I2vError):
    """Decoding a file took too much time or memory, or crashed its process. It says nothing lasting about the file."""

    retryable = True


class ProviderError(I2vError):
    """A request to the provider failed.

    `message` names the request and what came back; `code` is the provider's fail code, else the HTTP status, else the
    exception's name; `status` is the HTTP status, or the envelope's code if HTTP says 200, or 0 if there was none.
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
    """No connection was made (refused, DNS, TLS, no free connection): safe to send again."""

    retryable = True


class Busy(ProviderError):
    """Refused for now: 429, or 500, 502, 503 in the provider's envelope. Safe to send again after `retry_after`."""

    retryable = True


class Rejected(ProviderError):
    """The provider does not accept this request (400, 404); nothing was charged."""


class ContentRejected(Rejected):
    """The provider's moderation rejects the image or the prompt."""


class AccountRejected(ProviderError):
    """The provider accepts no request of this account (401, 402, 403); nothing was charged."""


class TaskRejected(ProviderError):
    """The provider returned a fail code instead of a task id: possibly charged, never repeated."""


class AnswerLost(ProviderError):
    """The request was sent, but no readable answer came back: possibly charged, never sent again."""


class BadAnswer(ProviderError):
    """The answer to a status or balance request breaks the contract; these requests are free."""

    retryable = True
