"""The callback's address and body: signed, verified, and believed no further than a hint."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from i2v.apixo.callbacks import Hint, callback_url, check_callbacks, hide_signatures, hint_of, verify
from i2v.errors import UsageError
from i2v.recovery.callbacks import CallbackHint, read_entry
from i2v.settings import Settings
from tests.support.settings import SealedSettings

JOB, OTHER = "a" * 64, "b" * 64
OLD, NEW = "the-old-secret-of-many", "the-new-secret-of-many"
BASE = "https://door.example/i2v"


def made(secret: str = NEW, base: str | None = BASE, **more: str) -> Settings:
    """Settings with callbacks."""
    variables: dict[str, Any] = {"I2V_CALLBACK_SECRET": secret, "I2V_CALLBACK_BASE_URL": base, **more}
    return SealedSettings(**{name: value for name, value in variables.items() if value})


async def public(_host: str, _port: int) -> list[str]:
    """Every name is at a public address."""
    return ["1.1.1.1"]


async def inside(_host: str, _port: int) -> list[str]:
    """Every name is at a private address."""
    return ["10.0.0.7"]


async def nowhere(_host: str, _port: int) -> list[str]:
    """No name is known."""
    raise OSError("not known")


def signature_of(settings: Settings, job: str = JOB, attempt: int = 1) -> str:
    """The last part of the address."""
    return callback_url(settings, job, attempt).rpartition("/")[2]


def test_an_address_names_job_and_attempt_and_is_signed() -> None:
    """`/apixo/{job}/{attempt}/{signature}` below the base URL, the signature an HMAC-SHA256 in hex."""
    url = callback_url(made(), JOB, 2)
    assert url.startswith(f"{BASE}/apixo/{JOB}/2/")
    assert len(signature_of(made())) == 64
    assert verify(made(), JOB, "1", signature_of(made()))
    assert NEW not in url


def test_a_signature_is_for_one_job_and_one_attempt() -> None:
    """Neither another job's nor another attempt's signature will do, nor the same number spelt otherwise."""
    signature = signature_of(made())
    for job, attempt in (
        (OTHER, "1"),
        (JOB, "2"),
        (JOB, "01"),
        (JOB, "+1"),
        (JOB, "\u0661"),
        (JOB, "1 "),
        (JOB.upper(), "1"),
    ):
        assert not verify(made(), job, attempt, signature)
    assert not verify(made(), JOB, "1", signature[:-1])
    assert not verify(made(), JOB, "1", signature.upper())


def test_a_secret_can_be_changed_while_callbacks_are_awaited() -> None:
    """The first signs, all verify; one that is gone verifies no more."""
    both = made(f"{NEW},{OLD}")
    assert signature_of(both) == signature_of(made(NEW))
    assert verify(both, JOB, "1", signature_of(made(OLD)))
    assert not verify(made(NEW), JOB, "1", signature_of(made(OLD)))


def test_nothing_verifies_without_a_secret() -> None:
    """A door without secrets believes nobody, and a run without them makes no address."""
    none = SealedSettings(I2V_CALLBACK_BASE_URL=BASE)
    assert not verify(none, JOB, "1", signature_of(made()))
    with pytest.raises(UsageError, match="not set up"):
        callback_url(none, JOB, 1)


@given(job=st.text(), attempt=st.text(), signature=st.text(min_size=0, max_size=70))
def test_no_text_is_too_strange_to_verify(job: str, attempt: str, signature: str) -> None:
    """Whatever comes in is no signature of ours, and raises nothing."""
    assert not verify(made(), job, attempt, signature)
    assert not verify(made(), JOB, "1", signature)


@pytest.mark.parametrize("signature", ["", "0" * 10_000_000, "\ud800" * 64, "é" * 64, "\0" * 64])
def test_no_signature_is_too_long_or_too_odd(signature: str) -> None:
    """Huge, unicode, half surrogates, zeros."""
    assert not verify(made(), JOB, "1", signature)


def body_of(data: object) -> bytes:
    """A callback's body with this data."""
    return json.dumps({"code": 200, "message": "success", "data": data}).encode()


def test_a_body_tells_its_task_and_nothing_else() -> None:
    """State, URLs and times are not even read."""
    told = hint_of(body_of({"taskId": "task_1", "state": "success", "resultJson": "{}", "createTime": 1}))
    assert told == Hint("task_1")


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
        body_of({"taskId": 5}),
        body_of({"taskId": ["task_1"]}),
        body_of({"taskId": ""}),
        body_of({"taskId": "  "}),
        body_of({"taskId": "t" * 257}),
        body_of({"taskId": "task\n1"}),
        body_of({"taskId": "task_é"}),
        body_of({"taskId": "\ud800"}),
    ],
    ids=range(20),
)
def test_a_body_that_is_none_tells_nothing(body: bytes) -> None:
    """Too large, too deep, no JSON, no object, no task id that could be one."""
    assert hint_of(body) is None


@given(st.binary())
def test_no_body_raises(body: bytes) -> None:
    """Whatever bytes come in."""
    assert hint_of(body) is None


@pytest.mark.parametrize(
    ("outside", "resolve", "word"),
    [
        (made(base=None), public, "I2V_CALLBACK_BASE_URL, which is not set"),
        (made(secret=""), public, "I2V_CALLBACK_SECRET, which is not set"),
        (made(secret="short"), public, "too short"),
        (made(secret=f"{NEW},short"), public, "too short"),
        (made(base="http://door.example"), public, "not https"),
        (made(base="https://10.0.0.1"), inside, "no public address"),
        (made(base="https://door.example"), inside, "no public address"),
        (made(base="https://u:p@door.example"), public, "user name"),
        (made(base="https://door.example/?a=b"), public, "query"),
    ],
)
async def test_callbacks_that_cannot_come_are_refused(outside: Settings, resolve: Any, word: str) -> None:
    """Before anything is paid, with what is wrong, and without the secret."""
    with pytest.raises(UsageError, match=word) as refused:
        await check_callbacks(outside, resolve)
    assert refused.value.hint
    assert "secret-of" not in str(refused.value)
    assert "short," not in str(refused.value)


@pytest.mark.parametrize(
    ("outside", "resolve"),
    [
        (made(), public),
        (made(), nowhere),
        (made(base="http://10.0.0.1:81", I2V_PRIVATE_HOSTS="10.0.0.1:81"), inside),
    ],
)
async def test_callbacks_that_can_come_are_taken(outside: Settings, resolve: Any) -> None:
    """Public https, a name that only the provider may know, and a private host that is allowed."""
    await check_callbacks(outside, resolve)


def test_a_repeated_address_loses_its_signature() -> None:
    """The provider's words may repeat the address, also encoded or cut short; what is shown never has the signature."""
    url = callback_url(made(), JOB, 1)
    encoded = url.replace("/", "%2F")
    for text in (url, url[:-30], encoded, f"invalid callback_url '{url}': no"):
        shown = hide_signatures(text)
        assert signature_of(made())[:8] not in shown
        assert JOB in shown
    assert hide_signatures("nothing to hide") == "nothing to hide"


def test_an_entry_names_a_job_or_what_was_told_of_it() -> None:
    """`KEY`, or `KEY/ATTEMPT/TASKID`, where the task id may hold anything but what hides."""
    told = CallbackHint(JOB, 3, "task/with/slashes")
    assert read_entry(JOB) == (JOB, None)
    assert read_entry(str(told)) == (JOB, told)


@pytest.mark.parametrize(
    "text", ["", "abc", JOB + "/", f"{JOB}/1", f"{JOB}/0/t", f"{JOB}/x/t", f"{JOB}/1/", f"{JOB}/1/a\nb"]
)
def test_what_names_no_job_is_refused(text: str) -> None:
    """A mistyped parameter is told as such, before anything is asked."""
    with pytest.raises(UsageError, match="names no job"):
        read_entry(text)
