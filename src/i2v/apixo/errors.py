"""What an answer of the provider means for the money: classes of fail codes, and answers as `i2v.errors`.

Add a status to `_STATUS`; fail codes are in `fail_codes`. No I/O and no retries here. What is not listed counts as the
costliest case: the answer to a submit is lost, a fail code is unknown.
"""

import re
from typing import NamedTuple

from i2v.advised_commands import command
from i2v.apixo.answers import Answer, Envelope
from i2v.apixo.fail_codes import FailClass, classify_fail_code
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
from i2v.net.proxies import PROXY_HINT

_CONTENT = re.compile(
    r"""nsfw | moderat(?:ion|ed) | sensitive | inappropriate | unsafe | safety
    | (?:prohibited|blocked|harmful|adult|sexual|explicit|illegal|restricted|disallowed)[\W_]*content
    | content[\W_]*(?:(?:is|was|has|been|were|may)[\W_]*)*
      (?:violat|polic|filter|not[\W_]*allowed|blocked|rejected|refused|flagged|prohibited|restricted|guideline)
    | violat\w*[\W_]+(?:\w+[\W_]+){0,4}(?:polic|guideline|content)""",
    re.IGNORECASE | re.VERBOSE,
)
_ACCOUNT = re.compile(r"account|api[\W_]*key|balance|credit|quota|permission|subscription|billing", re.IGNORECASE)


def _is_about_content(envelope: Envelope) -> bool:
    if FailClass.CONTENT in map(classify_fail_code, (envelope.fail_code, *envelope.text.split(": "))):
        return True
    text = f"{envelope.fail_code} {envelope.text}"
    return bool(_CONTENT.search(text)) and not _ACCOUNT.search(text)


class _Meaning(NamedTuple):
    error: type[ProviderError]
    hint: str


LOST_HINT = (
    "It was possibly charged, so it is not sent again automatically; look for the task on the provider's site, then "
    f"resolve the job, which this lists: {command('jobs', '--state', 'unknown')}"
)
_CONTENT_HINT = "Change the prompt or the image"
_RETRY_HINT = "It is retried at a lower rate"
_STATUS = {
    400: _Meaning(Rejected, "Correct the prompt, the image or the mode; the same request will be rejected again"),
    401: _Meaning(AccountRejected, "Check APIXO_API_KEY: it is missing, mistyped or revoked"),
    402: _Meaning(AccountRejected, "Add balance to the provider's account, or use another APIXO_API_KEY"),
    403: _Meaning(
        AccountRejected, "Check the key's permission for the model, the balance and the route (APIXO_PROVIDER)"
    ),
    404: _Meaning(Rejected, "Check APIXO_BASE_URL, and the task id of a status request"),
    407: _Meaning(Rejected, PROXY_HINT),
    429: _Meaning(Busy, _RETRY_HINT),
    500: _Meaning(Busy, _RETRY_HINT),
    502: _Meaning(Busy, _RETRY_HINT),
    503: _Meaning(Busy, _RETRY_HINT),
    504: _Meaning(Busy, _RETRY_HINT),
}
_OK = 200
_TOO_MANY = 429
_REFUSALS = frozenset({400, 401, 402, 403, 404})
_BUSY_IF_CODE_AGREES = frozenset({500, 502, 503})
_BY_CLASS = {
    FailClass.CONTENT: _Meaning(ContentRejected, _CONTENT_HINT),
    FailClass.INPUT: _Meaning(Rejected, "Correct the prompt or the image"),
    FailClass.ACCOUNT: _STATUS[402],
    FailClass.FETCH: _Meaning(TaskRejected, f"The provider could not fetch the image; check with: {command('doctor')}"),
    FailClass.TRANSIENT: _Meaning(TaskRejected, LOST_HINT),
    FailClass.UNKNOWN: _Meaning(TaskRejected, LOST_HINT),
}


def accepted_task(answer: Answer) -> str:
    """Return the task id in the answer to a submit: whatever else it says, the task exists and is possibly charged.

    Raises:
        Busy: 429, or 500, 502, 503 in an envelope with the same code; not charged.
        Rejected: the request is not accepted, not charged; ContentRejected if it is about content.
        AccountRejected: no request of this account is accepted; not charged.
        TaskRejected: a fail code instead of a task id.
        AnswerLost: anything else; possibly charged.
    """
    envelope = answer.envelope
    if envelope and envelope.task_id:
        return envelope.task_id
    if answer.status == _TOO_MANY:
        raise _refused(answer, _STATUS[_TOO_MANY])
    if envelope is None:
        raise _lost(answer, "not a JSON object")
    raise _submit_error(answer, envelope)


def _submit_error(answer: Answer, envelope: Envelope) -> ProviderError:
    code = envelope.code if answer.status == _OK else answer.status
    if answer.status == _OK and code == _OK:
        if envelope.fail_code:
            return _refused(answer, _BY_CLASS[classify_fail_code(envelope.fail_code)])
        return _lost(answer, "without a usable task id")
    if not envelope.is_complete:
        return _lost(answer, "without the provider's code and message")
    if code in _REFUSALS and envelope.code != _OK:
        return _refused(answer, _refusal(code, envelope))
    if answer.status in _BUSY_IF_CODE_AGREES and envelope.code == answer.status:
        return _refused(answer, _STATUS[answer.status])
    return _lost(answer, f"with the code {envelope.code}")


def _refusal(code: int, envelope: Envelope) -> _Meaning:
    """Return what 400 to 404 mean; a fail code with a class is more specific than the status."""
    if code in {400, 403} and _is_about_content(envelope):
        return _BY_CLASS[FailClass.CONTENT]
    kind = classify_fail_code(envelope.fail_code)
    if code in {400, 404} and kind in {FailClass.ACCOUNT, FailClass.FETCH}:
        return _BY_CLASS[kind]
    return _STATUS[code]


def read_error(answer: Answer) -> ProviderError | None:
    """Return the error in the answer to a status or balance request, or None.

    The status alone decides, with or without an envelope, because these requests are free.
    """
    envelope = answer.envelope
    if answer.status == _OK and envelope is None:
        return bad_answer(answer, "not a JSON object")
    code = envelope.code if answer.status == _OK and envelope else answer.status
    if code == _OK:
        return None
    meaning = _STATUS.get(code or 0)
    return bad_answer(answer, f"with the code {code}") if meaning is None else _refused(answer, meaning)


def bad_answer(answer: Answer, why: str) -> BadAnswer:
    """Return the error for an answer to a status or balance request that breaks the contract."""
    hint = "It is retried; if that does not help, check APIXO_BASE_URL"
    return BadAnswer(f"{answer}, {answer.redact(why)}", hint, str(answer.status), answer.retry_after)


def _refused(answer: Answer, meaning: _Meaning) -> ProviderError:
    fail_code, text = _fail_code_and_text(answer)
    number = answer.envelope.code if answer.envelope and answer.status == _OK else answer.status
    what = " ".join(str(part) for part in (number if number != _OK else "", fail_code) if part)
    message = f"{answer.request} returned {what}{text}"
    return meaning.error(message, meaning.hint, fail_code or str(number), answer.retry_after, number or 0)


def _lost(answer: Answer, why: str) -> AnswerLost:
    """Return the error with the whole answer, so that a person can find the task."""
    fail_code, _ = _fail_code_and_text(answer)
    body = f": {answer.redacted_body}" if answer.redacted_body else ""
    return AnswerLost(f"{answer}, {why}{body}", LOST_HINT, fail_code or str(answer.status), answer.retry_after)


def _fail_code_and_text(answer: Answer) -> tuple[str, str]:
    """Return the provider's fail code, and its text after a colon, each empty if there is none."""
    if answer.envelope is None:
        return "", ""
    text = answer.redact(answer.envelope.text)
    return answer.redact(answer.envelope.fail_code), f": {text}" if text else ""
