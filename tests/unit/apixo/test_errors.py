"""Each answer of the provider maps to exactly one error, which decides about payment."""

from __future__ import annotations

import json
import pickle

import pytest

from i2v.apixo.answers import Answer
from i2v.apixo.errors import accepted_task, read_error
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

SUBMIT = "POST /generateTask/hailuo-2-3-fast"
HTML = b"<html><body>Bad Gateway</body></html>"


def _envelope(code: object, message: object = "some words", **data: object) -> bytes:
    return json.dumps({"code": code, "message": message, "data": data or None}).encode()


def _submit(status: int, body: bytes = b"", **headers: str) -> Answer:
    return Answer(SUBMIT, status, body, headers, "sk-secret-key")


def _error(answer: Answer) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        accepted_task(answer)
    return caught.value


@pytest.mark.parametrize(
    ("kind", "codes"),
    [
        (
            FailClass.CONTENT,
            (
                "SensitiveContent NSFW ProhibitedContentDetected CONTENT_VIOLATION NSFW_DETECTED"
                " SensitiveContentDetected InputImageSensitiveContentDetected InputOutputSensitiveContentDetected"
            ),
        ),
        (
            FailClass.INPUT,
            (
                "PromptInvalid ImageFormatIncorrect InvalidImageSize PROMPT_TOO_LONG INVALID_PROMPT IMAGE_TOO_LARGE"
                " UNSUPPORTED_FORMAT PromptLengthExceeded"
            ),
        ),
        (FailClass.TRANSIENT, "RateLimited Timeout Unknown_error PROCESSING_TIMEOUT MODEL_UNAVAILABLE"),
        (FailClass.ACCOUNT, "InsufficientBalance INSUFFICIENT_CREDITS"),
        (FailClass.FETCH, "INVALID_IMAGE_URL IMAGE_DOWNLOAD_FAILED"),
        (FailClass.UNKNOWN, "GENERATION_FAILED SomethingNew 1001"),
    ],
)
def test_each_known_fail_code_has_its_class(kind: FailClass, codes: str) -> None:
    """Every documented fail code has its class, and any other is unknown."""
    assert {classify_fail_code(code) for code in codes.split()} == {kind}


@pytest.mark.parametrize(
    "code", ["Unknown error", "unknown_error", "UNKNOWN-ERROR", "UnknownError", " unknown  ERROR "]
)
def test_case_spaces_underscores_and_hyphens_do_not_matter(code: str) -> None:
    """Another spelling of a fail code has the same class."""
    assert classify_fail_code(code) is FailClass.TRANSIENT


def test_an_empty_fail_code_is_unknown() -> None:
    """A failure without a code is not retried automatically."""
    assert classify_fail_code("") is FailClass.UNKNOWN


@pytest.mark.parametrize(
    "answer",
    [
        _submit(200, _envelope(200, "success", taskId="task_1")),
        _submit(200, _envelope(200, "success", taskId="task_1", failCode="RateLimited")),
        _submit(201, _envelope(200, "success", taskId="task_1")),
        _submit(200, b'{"data": {"taskId": "task_1"}}'),
        _submit(200, b"\xef\xbb\xbf" + _envelope(200, "success", taskId="task_1")),
        _submit(200, _envelope(402, taskId="task_1")),
        _submit(302, _envelope(302, taskId="task_1")),
        _submit(400, _envelope(400, taskId="task_1")),
        _submit(403, _envelope(403, "Content violates policy", taskId="task_1", failCode="NSFW")),
        _submit(429, _envelope(429, "slow down", taskId="task_1")),
        _submit(500, _envelope(500, taskId="task_1")),
        _submit(502, _envelope("x", None, taskId="task_1")),
        _submit(504, _envelope(504, taskId="task_1", failCode="Timeout")),
    ],
)
def test_a_task_id_in_hand_is_never_dropped(answer: Answer) -> None:
    """An answer with a task id is an acceptance, whatever its status, code and fail code."""
    assert accepted_task(answer) == "task_1"


@pytest.mark.parametrize(
    ("task_id", "text"),
    [(123456, "123456"), (10**39, "1" + "0" * 39), ("t" * 4096, "t" * 4096), ("a b/ä", "a b/ä"), ("0", "0")],
    ids=["number", "large number", "long", "any characters", "zero as text"],
)
@pytest.mark.parametrize("status", [200, 429, 504])
def test_a_task_id_may_be_a_number_or_long(status: int, task_id: object, text: str) -> None:
    """A number is taken as its decimal text, and a text has up to 4,096 characters."""
    assert accepted_task(_submit(status, _envelope(status, taskId=task_id))) == text


@pytest.mark.parametrize(
    ("status", "kind"), [(200, AnswerLost), (400, Rejected), (429, Busy), (500, Busy), (504, AnswerLost)]
)
@pytest.mark.parametrize(
    "task_id",
    [
        "",
        "  ",
        "a\nb",
        "a\x00b",
        "\ud800",
        True,
        False,
        0,
        -1,
        1.5,
        1e20,
        None,
        ["t"],
        {"id": "t"},
        "t" * 4097,
        "é" * 999,
    ],
    ids=repr,
)
def test_what_cannot_be_a_task_id_leaves_the_meaning_to_the_status(
    status: int, kind: type[ProviderError], task_id: object
) -> None:
    """Without a usable id a success is lost, and a refusal is a refusal."""
    assert type(_error(_submit(status, _envelope(status, taskId=task_id)))) is kind


CASES: list[tuple[type[ProviderError], str, Answer]] = [
    # refused for now, not charged
    (Busy, "429", _submit(429, _envelope(429))),
    (Busy, "429", _submit(429, HTML)),
    (Busy, "429", _submit(429)),
    (Busy, "500", _submit(500, _envelope(500))),
    (Busy, "502", _submit(502, _envelope(502))),
    (Busy, "503", _submit(503, _envelope(503))),
    # this request is not accepted, not charged
    (Rejected, "400", _submit(400, _envelope(400, "Invalid request", error="Missing required field: input.prompt"))),
    (Rejected, "404", _submit(404, _envelope(404))),
    (Rejected, "PromptInvalid", _submit(400, _envelope(400, failCode="PromptInvalid"))),
    (Rejected, "400", _submit(400, _envelope(400, "content type must be application/json"))),
    (ContentRejected, "NSFW_DETECTED", _submit(400, _envelope(400, "no", failCode="NSFW_DETECTED"))),
    (ContentRejected, "400", _submit(400, _envelope(400, "Prohibited content detected"))),
    (ContentRejected, "400", _submit(400, _envelope(400, "SensitiveContentDetected"))),
    (ContentRejected, "400", _submit(400, _envelope(400, "Invalid request", error="rejected by content moderation"))),
    (AccountRejected, "InsufficientBalance", _submit(400, _envelope(400, failCode="InsufficientBalance"))),
    (TaskRejected, "INVALID_IMAGE_URL", _submit(400, _envelope(400, failCode="INVALID_IMAGE_URL"))),
    # no request of this account is accepted, not charged
    (AccountRejected, "401", _submit(401, _envelope(401, "Invalid API key"))),
    (AccountRejected, "402", _submit(402, _envelope(402, "Insufficient balance"))),
    (AccountRejected, "403", _submit(403, _envelope(403, "No permission for this model"))),
    (AccountRejected, "403", _submit(403, _envelope(403, "Forbidden"))),
    (AccountRejected, "403", _submit(403, _envelope(403, "Insufficient account balance"))),
    (AccountRejected, "403", _submit(403, _envelope(403, "This API key violates the usage policy"))),
    (ContentRejected, "403", _submit(403, _envelope(403, "Content violates policy"))),
    (ContentRejected, "403", _submit(403, _envelope(403, "Your prompt violates our content policy"))),
    (ContentRejected, "403", _submit(403, _envelope(403, "Flagged by moderation"))),
    (ContentRejected, "CONTENT_VIOLATION", _submit(403, _envelope(403, "Forbidden", failCode="CONTENT_VIOLATION"))),
    # HTTP 200 with another code inside
    (Rejected, "400", _submit(200, _envelope(400))),
    (AccountRejected, "401", _submit(200, _envelope(401))),
    (AccountRejected, "402", _submit(200, _envelope(402))),
    (AccountRejected, "403", _submit(200, _envelope(403))),
    (ContentRejected, "403", _submit(200, _envelope(403, "Content violates policy"))),
    (Rejected, "404", _submit(200, _envelope(404))),
    (AnswerLost, "200", _submit(200, _envelope(429))),
    (AnswerLost, "200", _submit(200, _envelope(500))),
    (AnswerLost, "200", _submit(200, _envelope(1001))),
    # a fail code in place of a task id
    (ContentRejected, "NSFW", _submit(200, _envelope(200, failCode="NSFW"))),
    (Rejected, "IMAGE_TOO_LARGE", _submit(200, _envelope(200, failCode="IMAGE_TOO_LARGE"))),
    (AccountRejected, "INSUFFICIENT_CREDITS", _submit(200, _envelope(200, failCode="INSUFFICIENT_CREDITS"))),
    (TaskRejected, "RateLimited", _submit(200, _envelope(200, failCode="RateLimited"))),
    (TaskRejected, "IMAGE_DOWNLOAD_FAILED", _submit(200, _envelope(200, failCode="IMAGE_DOWNLOAD_FAILED"))),
    (TaskRejected, "Whatever", _submit(200, _envelope(200, failCode="Whatever"))),
    (TaskRejected, "NewCode", _submit(200, b'{"code": 200, "message": "m", "failCode": "NewCode"}')),
    # all else may have been paid
    (AnswerLost, "200", _submit(200, _envelope(200, "success"))),
    (AnswerLost, "200", _submit(200, _envelope(200, "success", taskId=""))),
    (AnswerLost, "200", _submit(200, _envelope(200, "success", taskId="  "))),
    (AnswerLost, "200", _submit(200, _envelope(200, "success", taskId=123.45))),
    (AnswerLost, "200", _submit(200, _envelope(200, "success", taskId="x" * 5000))),
    (AnswerLost, "200", _submit(200, _envelope(200, "success", taskId="a\nb"))),
    (AnswerLost, "200", _submit(200, b'{"data": {}}')),
    (AnswerLost, "200", _submit(200, _envelope(True, "x"))),
    (AnswerLost, "200", _submit(200)),
    (AnswerLost, "200", _submit(200, HTML)),
    (AnswerLost, "200", _submit(200, b"\xff\xfe\x00garbage")),
    (AnswerLost, "200", _submit(200, b"[" * 200_000)),
    (AnswerLost, "200", _submit(200, b'{"code": ' + b"9" * 10_000 + b"}")),
    (AnswerLost, "200", _submit(200, b"[]")),
    (AnswerLost, "200", _submit(200, b"null")),
    (AnswerLost, "204", _submit(204)),
    (AnswerLost, "301", _submit(301, HTML, location="https://elsewhere.example/")),
    (AnswerLost, "307", _submit(307, _envelope(307))),
    (AnswerLost, "400", _submit(400, HTML)),
    (AnswerLost, "400", _submit(400, b'{"message": "Bad Request"}')),
    (AnswerLost, "400", _submit(400, b'{"code": 400}')),
    (AnswerLost, "400", _submit(400, _envelope("400"))),
    (AnswerLost, "400", _submit(400, _envelope(200))),
    (AnswerLost, "401", _submit(401)),
    (AnswerLost, "402", _submit(402, HTML)),
    (AnswerLost, "403", _submit(403, HTML)),
    (AnswerLost, "404", _submit(404, HTML)),
    (AnswerLost, "408", _submit(408, _envelope(408))),
    (AnswerLost, "409", _submit(409, _envelope(409))),
    (AnswerLost, "422", _submit(422, _envelope(422))),
    (AnswerLost, "500", _submit(500, HTML)),
    (AnswerLost, "500", _submit(500, _envelope(502))),
    (AnswerLost, "500", _submit(500, _envelope("500"))),
    (AnswerLost, "500", _submit(500, b'{"code": 500}')),
    (AnswerLost, "502", _submit(502, HTML)),
    (AnswerLost, "502", _submit(502)),
    (AnswerLost, "503", _submit(503, _envelope(500))),
    (AnswerLost, "501", _submit(501, _envelope(501))),
    (AnswerLost, "504", _submit(504, _envelope(504))),
    (AnswerLost, "504", _submit(504, HTML)),
    (AnswerLost, "524", _submit(524, HTML)),
]


@pytest.mark.parametrize(("kind", "code", "answer"), CASES)
def test_an_answer_to_a_submit_means_exactly_one_thing_for_the_money(
    kind: type[ProviderError], code: str, answer: Answer
) -> None:
    """Each answer raises its error, which names the request and the code and has a hint."""
    error = _error(answer)
    assert type(error) is kind
    assert error.code == code
    assert error.message.startswith(SUBMIT)
    assert error.hint


def test_only_plain_refusals_are_retryable() -> None:
    """Only 429, and 500, 502, 503 with the same code in the envelope, are retryable."""
    retried = {(answer.status, bool(answer.envelope)) for _, _, answer in CASES if _error(answer).retryable}
    assert retried == {(429, True), (429, False), (500, True), (502, True), (503, True)}


@pytest.mark.parametrize(
    ("body", "clue"),
    [
        (_envelope(200, "success", taskId=["task_1"]), '"taskId": ["task_1"]'),
        (_envelope(200, "success", taskId="task\u0007_1"), "task\\u0007_1"),
        (_envelope(200, "w" * 900, job="task_1"), '"job": "task_1"'),
        (b'{"code": 200, "message": "ok", "taskId": "task_1"}', '"taskId": "task_1"'),
        (b'[1, "task_1"]', "task_1"),
        (b"<p>task_1</p>", "<p>task_1</p>"),
        (b'{"data": {"taskId": "task_1', '"taskId": "task_1'),
    ],
)
@pytest.mark.parametrize("status", [200, 201, 504])
def test_a_lost_answer_shows_what_came(status: int, body: bytes, clue: str) -> None:
    """The message repeats the answer, so that a person can find the task."""
    error = _error(_submit(status, body))
    assert type(error) is AnswerLost
    assert clue in error.message


@pytest.mark.parametrize(
    "body",
    [
        b'{"data": {"a": "https:\\/\\/b.example\\/i.jpg?X-Amz-Signature=hush", "k": "sk-secret-key"}}',
        b'{"data": "https:\\u002f\\u002fme:hush@b.example", "k": "sk-secret\\u002dkey"}',
        b'{"data": "{\\"url\\": \\"https:\\\\/\\\\/b.example\\\\/i.jpg?hush\\"}"}',
        b"<p>sk-secret-key https://b.example/i.jpg?hush</p>",
    ],
)
def test_a_lost_answer_is_redacted(body: bytes) -> None:
    """No escape of JSON hides a key, a password or a signature from the redaction, and the message stays short."""
    message = _error(_submit(200, body + b" " * 100_000)).message
    assert "b.example" in message
    assert "hush" not in message
    assert "sk-secret" not in message
    assert len(_error(_submit(200, b"x" * 1_000_000)).message) < 500
    assert len(_error(_submit(200, _envelope(200, "x" * 1_000_000))).message) < 1200


def test_a_refusal_carries_retry_after() -> None:
    """The error has the seconds of Retry-After."""
    assert _error(_submit(429, b"", **{"retry-after": "7"})).retry_after == 7
    assert _error(_submit(503, _envelope(503), **{"retry-after": "2.5"})).retry_after == 2.5
    assert _error(_submit(429)).retry_after is None


def test_the_providers_text_is_redacted() -> None:
    """The message is one short line without key, URL query, password or control characters."""
    words = (
        "no\x1b[31m\nway sk-secret-key https://b.example/i.jpg?X-Amz-Signature=abc&y=1 https://u:pw@c.example/z"
        " Bearer abcdef X-Amz-Credential=AKIA " + "long " * 200
    )
    message = _error(_submit(400, _envelope(400, words))).message
    assert "https://b.example/i.jpg?… https://c.example/z" in message
    for secret in ("sk-secret-key", "abc", "pw", "\x1b", "\n", "AKIA"):
        assert secret not in message
    assert len(message) < 400


def test_errors_survive_pickling() -> None:
    """A pickled error keeps its code and retry_after."""
    error = _error(_submit(429, b"", **{"retry-after": "7"}))
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 — our own bytes
    assert (copy.code, copy.retry_after, str(copy)) == (error.code, 7, str(error))


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Answer("GET /s", 200, _envelope(200)), None),
        (Answer("GET /s", 200, HTML), BadAnswer),
        (Answer("GET /s", 200), BadAnswer),
        (Answer("GET /s", 200, b"{}"), BadAnswer),
        (Answer("GET /s", 200, _envelope(401)), AccountRejected),
        (Answer("GET /s", 200, _envelope(404)), Rejected),
        (Answer("GET /s", 200, _envelope(500)), Busy),
        (Answer("GET /s", 302, HTML), BadAnswer),
        (Answer("GET /s", 401, HTML), AccountRejected),
        (Answer("GET /s", 402, _envelope(402)), AccountRejected),
        (Answer("GET /s", 403, _envelope(403, "Content violates policy")), AccountRejected),
        (Answer("GET /s", 404, HTML), Rejected),
        (Answer("GET /s", 429), Busy),
        (Answer("GET /s", 500, HTML), Busy),
        (Answer("GET /s", 502, HTML), Busy),
        (Answer("GET /s", 503, HTML), Busy),
        (Answer("GET /s", 504, HTML), Busy),
        (Answer("GET /s", 520, HTML), BadAnswer),
    ],
)
def test_a_status_or_balance_answer_is_judged_by_its_status(answer: Answer, kind: type[ProviderError] | None) -> None:
    """Without an envelope too, 429 and 5xx are Busy, 401 to 404 are final, and anything else is BadAnswer."""
    error = read_error(answer)
    assert type(error) is (kind or type(None))
    assert error is None or "GET /s" in str(error)
