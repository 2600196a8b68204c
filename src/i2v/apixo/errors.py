"""What an answer of the provider means for the money: fail codes by class, HTTP answers as errors of `i2v.errors`.

Pure: no I/O and no retries. A new fail code goes into `_CODES`, a new status into `_STATUS`. What is not listed is
taken for the dearest: a submit's answer may have been lost, a fail code is unknown.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import NamedTuple

from i2v.apixo.answers import Answer, Envelope
from i2v.errors import (
    AccountRejected,
    AnswerLost,
    BadAnswer,
    Busy,
    ContentRejected,
    ProviderError,
    Rejected,
    TaskRejected,
)


class FailClass(StrEnum):
    """What a fail code says can be done."""

    CONTENT = "content"
    """Moderation says no: another prompt or image."""
    INPUT = "input"
    """The prompt or image breaks a rule: change it."""
    TRANSIENT = "transient"
    """It may work the next time."""
    ACCOUNT = "account"
    """Nothing of this account will work now."""
    FETCH = "fetch"
    """The provider could not read the image's URL: failed, and not the image's fault."""
    UNKNOWN = "unknown"
    """Not listed, or says nothing: never tried again by itself."""


_CODES = {
    FailClass.CONTENT: """SensitiveContent NSFW ProhibitedContentDetected CONTENT_VIOLATION NSFW_DETECTED
        SensitiveContentDetected InputImageSensitiveContentDetected InputOutputSensitiveContentDetected""",
    FailClass.INPUT: """PromptInvalid ImageFormatIncorrect InvalidImageSize PROMPT_TOO_LONG INVALID_PROMPT
        IMAGE_TOO_LARGE UNSUPPORTED_FORMAT PromptLengthExceeded""",
    # "Unknown error" is a code of the vendor, to be tried again by its own advice
    FailClass.TRANSIENT: "RateLimited Timeout UnknownError PROCESSING_TIMEOUT MODEL_UNAVAILABLE",
    FailClass.ACCOUNT: "InsufficientBalance INSUFFICIENT_CREDITS",
    FailClass.FETCH: "INVALID_IMAGE_URL IMAGE_DOWNLOAD_FAILED",
    FailClass.UNKNOWN: "GENERATION_FAILED",
}


def _plain(code: str) -> str:
    return re.sub(r"[\s_-]+", "", code).casefold()


_CLASS_OF = {_plain(code): kind for kind, codes in _CODES.items() for code in codes.split()}


def classify_fail_code(code: str) -> FailClass:
    """The class of a fail code of either vocabulary, whatever its case, spaces, underscores and hyphens."""
    return _CLASS_OF.get(_plain(code), FailClass.UNKNOWN)


_CONTENT = re.compile(
    r"""nsfw | moderat(?:ion|ed) | sensitive | inappropriate | unsafe | safety
    | (?:prohibited|blocked|harmful|adult|sexual|explicit|illegal|restricted|disallowed)[\W_]*content
    | content[\W_]*(?:(?:is|was|has|been|were|may)[\W_]*)*
      (?:violat|polic|filter|not[\W_]*allowed|blocked|rejected|refused|flagged|prohibited|restricted|guideline)
    | violat\w*[\W_]+(?:\w+[\W_]+){0,4}(?:polic|guideline|content)""",
    re.IGNORECASE | re.VERBOSE,
)
_ACCOUNT = re.compile(r"account|api[\W_]*key|balance|credit|quota|permission|subscription|billing", re.IGNORECASE)


def _about_content(said: Envelope) -> bool:
    named = {classify_fail_code(text) for text in (said.fail_code, *said.told.split(": "))}
    if FailClass.CONTENT in named:
        return True
    text = f"{said.fail_code} {said.told}"
    return bool(_CONTENT.search(text)) and not _ACCOUNT.search(text)


class _Meaning(NamedTuple):
    error: type[ProviderError]
    hint: str


LOST_HINT = (
    "It may have been paid, so it is never sent again by itself; look for it on the provider's site,"
    " then resolve the job with: i2v jobs resolve"
)
_CONTENT_HINT = "Change the prompt or the image"
_SLOWER = "It is tried again, more slowly"
_STATUS = {
    400: _Meaning(Rejected, "Correct the prompt, the image or the mode; the same again will be refused again"),
    401: _Meaning(AccountRejected, "Check APIXO_API_KEY: it is missing, mistyped or revoked"),
    402: _Meaning(AccountRejected, "Add balance to the provider's account, or use another APIXO_API_KEY"),
    403: _Meaning(
        AccountRejected, "Check the key's permission for the model, the balance and the route (APIXO_PROVIDER)"
    ),
    404: _Meaning(Rejected, "Check APIXO_BASE_URL, and the task id if one was asked for"),
    429: _Meaning(Busy, _SLOWER),
    500: _Meaning(Busy, _SLOWER),
    502: _Meaning(Busy, _SLOWER),
    503: _Meaning(Busy, _SLOWER),
    504: _Meaning(Busy, _SLOWER),
}
_OK = 200
_TOO_MANY = 429
_REFUSALS = frozenset({400, 401, 402, 403, 404})
_BUSY_IF_SAID_TWICE = frozenset({500, 502, 503})
_BY_CLASS = {
    FailClass.CONTENT: _Meaning(ContentRejected, _CONTENT_HINT),
    FailClass.INPUT: _Meaning(Rejected, "Correct the prompt or the image"),
    FailClass.ACCOUNT: _STATUS[402],
    FailClass.FETCH: _Meaning(TaskRejected, "The provider could not fetch the image: check with i2v doctor"),
    FailClass.TRANSIENT: _Meaning(TaskRejected, LOST_HINT),
    FailClass.UNKNOWN: _Meaning(TaskRejected, LOST_HINT),
}


def accepted_task(answer: Answer) -> str:
    """The task id that a submit's answer holds.

    Raises:
        Busy: refused for now, nothing paid: 429, or 500, 502, 503 in an envelope with the same code.
        Rejected: refused for good, nothing paid; ContentRejected where it is about content.
        AccountRejected: refused whatever the image, nothing paid.
        TaskRejected: a fail code came in place of a task id.
        AnswerLost: all else; it may have been paid.
    """
    said = answer.envelope
    if answer.status == _TOO_MANY:
        raise _refused(answer, _STATUS[_TOO_MANY])
    if said is None:
        raise _lost(answer, "which is not the vendor's JSON")
    if said.task_id:
        if _OK <= answer.status < 300 and said.code in {_OK, None}:  # noqa: PLR2004 — all of 2xx
            return said.task_id
        raise _lost(answer, f"but with the task id {said.task_id}")
    raise _submit_error(answer, said)


def _submit_error(answer: Answer, said: Envelope) -> ProviderError:
    code = said.code if answer.status == _OK else answer.status
    if answer.status == _OK and code == _OK:
        if said.fail_code:
            return _refused(answer, _BY_CLASS[classify_fail_code(said.fail_code)])
        return _lost(answer, "without a task id")
    if not said.whole:
        return _lost(answer, "which is not the vendor's envelope")
    if code in _REFUSALS and said.code != _OK:
        return _refused(answer, _refusal(code, said))
    if answer.status in _BUSY_IF_SAID_TWICE and said.code == answer.status:
        return _refused(answer, _STATUS[answer.status])
    return _lost(answer, f"with the code {said.code}")


def _refusal(code: int, said: Envelope) -> _Meaning:
    """What 400 to 404 mean; a fail code says it better than the number where it has a class."""
    if code in {400, 403} and _about_content(said):
        return _BY_CLASS[FailClass.CONTENT]
    kind = classify_fail_code(said.fail_code)
    if code in {400, 404} and kind in {FailClass.ACCOUNT, FailClass.FETCH}:
        return _BY_CLASS[kind]
    return _STATUS[code]


def read_error(answer: Answer) -> ProviderError | None:
    """What keeps the answer to a free call (status, balance) from being read; None if nothing does.

    Here the status alone decides, with or without an envelope: asking again costs nothing.
    """
    said = answer.envelope
    if answer.status == _OK and said is None:
        return bad_answer(answer, "which is not the vendor's JSON")
    code = said.code if answer.status == _OK and said else answer.status
    if code == _OK:
        return None
    meaning = _STATUS.get(code or 0)
    return bad_answer(answer, f"with the code {code}") if meaning is None else _refused(answer, meaning)


def bad_answer(answer: Answer, why: str) -> BadAnswer:
    """An answer to a free call that breaks the contract, and how."""
    hint = "It is asked again; if it stays so, check APIXO_BASE_URL"
    return BadAnswer(f"{answer}, {answer.shown(why)}", hint, str(answer.status), answer.retry_after)


def _refused(answer: Answer, meaning: _Meaning) -> ProviderError:
    said = answer.envelope
    words = answer.shown(said.told) if said else ""
    fail_code = answer.shown(said.fail_code) if said else ""
    number = said.code if said and answer.status == _OK else answer.status
    what = " ".join(str(part) for part in (number if number != _OK else "", fail_code) if part)
    message = f"{answer.request} was refused with {what}" + (f": {words}" if words else "")
    return meaning.error(message, meaning.hint, fail_code or str(number), answer.retry_after, number or 0)


def _lost(answer: Answer, why: str) -> AnswerLost:
    said = answer.envelope
    words = answer.shown(said.told) if said else ""
    message = f"{answer}, {why}" + (f": {words}" if words else "")
    code = (answer.shown(said.fail_code) if said else "") or str(answer.status)
    return AnswerLost(message, LOST_HINT, code, answer.retry_after)
