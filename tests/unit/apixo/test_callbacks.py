"""The callback URL and body: signed, verified, and used only as a hint."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from i2v.apixo.callbacks import callback_task_id, callback_url, check_callbacks, verify
from i2v.errors import UsageError
from i2v.recovery.adopt_from_callback import CallbackHint, parse_job_entry
from i2v.settings import Settings
from i2v.urls import hide_signatures
from tests.support.settings import SealedSettings

JOB, OTHER = "a" * 64, "b" * 64
OLD, NEW = "the-old-secret-of-many", "the-new-secret-of-many"
BASE = "https://door.example/i2v"


def settings_with(secret: str = NEW, base: str | None = BASE, **more: str) -> Settings:
    """Settings with callbacks."""
    variables: dict[str, Any] = {"I2V_CALLBACK_SECRET": secret, "I2V_CALLBACK_BASE_URL": base, **more}
    return SealedSettings(**{name: value for name, value in variables.items() if value})


async def public(_host: str, _port: int) -> list[str]:
    """Resolve every name to a public address."""
    return ["1.1.1.1"]


async def inside(_host: str, _port: int) -> list[str]:
    """Resolve every name to a private address."""
    return ["10.0.0.7"]


async def nowhere(_host: str, _port: int) -> list[str]:
    """Resolve no name."""
    raise OSError("not known")


def signature_of(settings: Settings, job: str = JOB, attempt: int = 1) -> str:
    """The last part of the URL."""
    return callback_url(settings, job, attempt).rpartition("/")[2]


def test_a_callback_url_names_job_and_attempt_and_is_signed() -> None:
    """The path is `/apixo/{job}/{attempt}/{signature}`, the signature an HMAC-SHA256 in hex."""
    url = callback_url(settings_with(), JOB, 2)
    assert url.startswith(f"{BASE}/apixo/{JOB}/2/")
    assert len(signature_of(settings_with())) == 64
    assert verify(settings_with(), JOB, "1", signature_of(settings_with()))
    assert NEW not in url


def test_a_signature_is_valid_for_one_job_and_one_attempt() -> None:
    """A signature of another job or attempt fails, and so does another spelling of the same number."""
    signature = signature_of(settings_with())
    for job, attempt in (
        (OTHER, "1"),
        (JOB, "2"),
        (JOB, "01"),
        (JOB, "+1"),
        (JOB, "\u0661"),
        (JOB, "1 "),
        (JOB.upper(), "1"),
    ):
        assert not verify(settings_with(), job, attempt, signature)
    assert not verify(settings_with(), JOB, "1", signature[:-1])
    assert not verify(settings_with(), JOB, "1", signature.upper())


def test_a_secret_can_be_rotated_while_callbacks_are_pending() -> None:
    """The first secret signs, all verify; a removed one no longer verifies."""
    both = settings_with(f"{NEW},{OLD}")
    assert signature_of(both) == signature_of(settings_with(NEW))
    assert verify(both, JOB, "1", signature_of(settings_with(OLD)))
    assert not verify(settings_with(NEW), JOB, "1", signature_of(settings_with(OLD)))


def test_nothing_verifies_without_a_secret() -> None:
    """Without secrets no signature is valid and no URL can be made."""
    none = SealedSettings(I2V_CALLBACK_BASE_URL=BASE)
    assert not verify(none, JOB, "1", signature_of(settings_with()))
    with pytest.raises(UsageError, match="not set up"):
        callback_url(none, JOB, 1)


@given(job=st.text(), attempt=st.text(), signature=st.text(min_size=0, max_size=70))
def test_arbitrary_text_never_verifies(job: str, attempt: str, signature: str) -> None:
    """Arbitrary text is not a valid signature and raises nothing."""
    assert not verify(settings_with(), job, attempt, signature)
    assert not verify(settings_with(), JOB, "1", signature)


@pytest.mark.parametrize("signature", ["", "0" * 10_000_000, "\ud800" * 64, "é" * 64, "\0" * 64])
def test_an_odd_signature_never_verifies(signature: str) -> None:
    """Huge signatures, Unicode, lone surrogates and zero bytes raise nothing."""
    assert not verify(settings_with(), JOB, "1", signature)


def body_of(data: object) -> bytes:
    """A callback's body with this data."""
    return json.dumps({"code": 200, "message": "success", "data": data}).encode()


def test_a_body_gives_its_task_id() -> None:
    """The task id is all that is read from a callback."""
    body = body_of({"taskId": "task_1", "state": "success", "resultJson": "{}", "createTime": 1})
    assert callback_task_id(body) == "task_1"


@pytest.mark.parametrize(
    ("task_id", "text"), [(5, "5"), ("t" * 4096, "t" * 4096), ("task_é/1 2", "task_é/1 2")], ids=["number", "long", "é"]
)
def test_a_callback_takes_the_task_ids_that_a_submit_takes(task_id: object, text: str) -> None:
    """A number, a long text or another alphabet is a task id here too, and comes through a job entry unchanged."""
    assert callback_task_id(body_of({"taskId": task_id})) == text
    hint = CallbackHint(JOB, 1, text)
    assert parse_job_entry(str(hint)) == (JOB, hint)


def test_a_hundred_callbacks_fit_into_the_parameters_of_a_flow_run() -> None:
    """The door's largest batch of the longest task ids stays below Prefect's limit of 512 KiB of JSON."""
    longest = ("t" * 4096, "é" * (4096 // 6), '"' * 2048)
    assert all(callback_task_id(body_of({"taskId": task_id})) for task_id in longest)
    for task_id in longest:
        parameters = {"jobs": [str(CallbackHint(JOB, 999_999_999, task_id))] * 100}
        assert len(json.dumps(parameters)) < 524_288


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff\xfe",
        b"[" * 500_000,
        b'{"data": ' * 100_000,
        b'{"data": {"taskId": ' + b"9" * 10_000 + b"}}",
        b" " * (1 << 20) + b'{"data": {"taskId": "task_1"}}',
        body_of(None),
        body_of([]),
        body_of({}),
        body_of({"taskId": 5.5}),
        body_of({"taskId": ["task_1"]}),
        body_of({"taskId": ""}),
        body_of({"taskId": "  "}),
        body_of({"taskId": "t" * 4097}),
        body_of({"taskId": "task\n1"}),
        body_of({"taskId": "é" * 4096}),
        body_of({"taskId": "\ud800"}),
    ],
    ids=range(20),
)
def test_an_invalid_body_has_no_task_id(body: bytes) -> None:
    """A body that is too large, too deep, not a JSON object or without a valid task id gives None."""
    assert callback_task_id(body) is None


@given(st.binary())
def test_no_body_raises(body: bytes) -> None:
    """Arbitrary bytes give None."""
    assert callback_task_id(body) is None


@pytest.mark.parametrize(
    ("outside", "resolve", "word"),
    [
        (settings_with(base=None), public, "I2V_CALLBACK_BASE_URL, which is not set"),
        (settings_with(secret=""), public, "I2V_CALLBACK_SECRET, which is not set"),
        (settings_with(base="http://door.example"), public, "does not use https"),
        (settings_with(base="https://10.0.0.1"), inside, "not a public address"),
        (settings_with(base="https://door.example"), inside, "not a public address"),
        (settings_with(base="https://u:p@door.example"), public, "user name"),
        (settings_with(base="https://door.example/?a=b"), public, "query"),
    ],
)
async def test_unusable_callback_settings_are_refused(outside: Settings, resolve: Any, word: str) -> None:
    """The error has a hint and does not show the secret."""
    with pytest.raises(UsageError, match=word) as refused:
        await check_callbacks(outside, resolve)
    assert refused.value.hint
    assert "secret-of" not in str(refused.value)


@pytest.mark.parametrize(
    ("outside", "resolve"),
    [
        (settings_with(), public),
        (settings_with(), nowhere),
        (settings_with(base="http://10.0.0.1:81", I2V_PRIVATE_HOSTS="10.0.0.1:81"), inside),
    ],
)
async def test_usable_callback_settings_are_accepted(outside: Settings, resolve: Any) -> None:
    """Public https, a name that does not resolve here, and an allowed private host are accepted."""
    await check_callbacks(outside, resolve)


def test_a_repeated_callback_url_loses_its_signature() -> None:
    """The signature is removed from a text that repeats the URL, also encoded or cut short."""
    url = callback_url(settings_with(), JOB, 1)
    encoded = url.replace("/", "%2F")
    for text in (url, url[:-30], encoded, f"invalid callback_url '{url}': no"):
        hidden = hide_signatures(text)
        assert signature_of(settings_with())[:8] not in hidden
        assert JOB in hidden
    assert hide_signatures("nothing to hide") == "nothing to hide"


def test_an_entry_is_a_job_key_or_a_hint() -> None:
    """`KEY` and `KEY/ATTEMPT/TASKID` are parsed; a task id may contain slashes."""
    hint = CallbackHint(JOB, 3, "task/with/slashes")
    assert parse_job_entry(JOB) == (JOB, None)
    assert parse_job_entry(str(hint)) == (JOB, hint)


@pytest.mark.parametrize(
    "text", ["", "abc", JOB + "/", f"{JOB}/1", f"{JOB}/0/t", f"{JOB}/x/t", f"{JOB}/1/", f"{JOB}/1/a\nb"]
)
def test_an_invalid_entry_is_refused(text: str) -> None:
    """A mistyped parameter is a UsageError."""
    with pytest.raises(UsageError, match="is not a job"):
        parse_job_entry(text)
