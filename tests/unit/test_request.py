"""What is asked of the provider, and the job key that it makes with the image."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from i2v.request import PROMPT_MAX_CHARS, Mode, Request, canonical_json, clean_prompt

IMAGE = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("given_", "sent"),
    [
        ("  a slow zoom \n", "a slow zoom"),
        ("one\r\ntwo\rthree\nfour", "one\ntwo\nthree\nfour"),
        ("cafe\u0301", "caf\u00e9"),
        ("\u00a0zoom\u2003", "zoom"),
        ("two  blanks\tand a tab", "two  blanks\tand a tab"),
        ("\u2126", "\u03a9"),
    ],
    ids=["blanks", "line ends", "accents", "wide blanks", "inside", "ohm"],
)
def test_a_prompt_is_sent_trimmed_with_plain_line_ends_and_composed(given_: str, sent: str) -> None:
    """Spellings that look alike are one prompt, and so one job."""
    assert Request(prompt=given_).prompt == sent
    assert Request(prompt=given_).job_key(IMAGE) == Request(prompt=sent).job_key(IMAGE)


@given(st.text(max_size=200))
def test_cleaning_a_prompt_twice_changes_nothing(text: str) -> None:
    """What was cleaned is clean: no carriage return, no blank at either end, NFC."""
    cleaned = clean_prompt(text)
    assert clean_prompt(cleaned) == cleaned
    assert "\r" not in cleaned
    assert cleaned == cleaned.strip()
    assert unicodedata.is_normalized("NFC", cleaned)


def test_the_job_key_never_changes() -> None:
    """Every record in every ledger lies under such a key: if this fails, all paid videos would be paid again."""
    request = Request(mode=Mode.STANDARD, duration=10, prompt="Käfer\nkrabbelt", take=2)
    assert request.job_key(IMAGE) == "19e45c84b8784436bd714fab550f386a311469de619f607f15b3363a3880000a"
    assert request.digest12 == "d373a49a6f24"


def test_the_default_request_is_standard_of_six_seconds() -> None:
    """The cheapest video is what one gets unasked."""
    assert Request(prompt="zoom").model_dump(mode="json") == {
        "mode": "standard",
        "duration": 6,
        "prompt": "zoom",
        "take": 1,
    }


def test_everything_in_a_request_makes_another_job() -> None:
    """Mode, seconds, prompt, take and the image's content each make a job of its own."""
    first = Request(prompt="zoom")
    requests = [first, *(first.model_copy(update=change) for change in ({"duration": 10}, {"take": 2}))]
    requests += [Request(prompt="zoom", mode=Mode.PRO), Request(prompt="Zoom")]
    keys = {request.job_key(IMAGE) for request in requests} | {first.job_key("f" * 64)}
    assert len(keys) == 6
    assert len({request.digest12 for request in requests}) == 5


@pytest.mark.parametrize("seconds", ["6", "10", " 10 ", 6, 10])
def test_seconds_may_be_a_string(seconds: object) -> None:
    """The provider takes "6" and "10" too, and manifests and metadata know nothing else."""
    assert Request.model_validate({"prompt": "zoom", "duration": seconds}).duration == int(str(seconds))


@pytest.mark.parametrize("seconds", [5, 0, -6, "5", "six", "6.0", "", None, 6.5, "٦٠"])
def test_other_seconds_are_refused(seconds: object) -> None:
    """Only 6 and 10 are sold."""
    with pytest.raises(ValidationError, match="duration"):
        Request.model_validate({"prompt": "zoom", "duration": seconds})


@pytest.mark.parametrize("duration", [6, 10, "10", 7, None])
@pytest.mark.parametrize("mode", ["pro", Mode.PRO])
def test_pro_is_always_six_seconds(duration: object, mode: object) -> None:
    """The provider ignores the seconds of pro, so that two jobs of one video cannot come of them."""
    request = Request.model_validate({"prompt": "zoom", "mode": mode, "duration": duration})
    assert request.duration == 6
    assert request.job_key(IMAGE) == Request(prompt="zoom", mode=Mode.PRO).job_key(IMAGE)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": " \r\n\t"}, "prompt"),
        ({"prompt": "x" * (PROMPT_MAX_CHARS + 1)}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({}, "prompt"),
        ({"prompt": "x", "take": 0}, "take"),
        ({"prompt": "x", "mode": "cinema"}, "mode"),
        ({"prompt": "x", "seed": 1}, "seed"),
    ],
)
def test_what_is_no_request_is_refused_by_its_field(wrong: dict[str, object], field: str) -> None:
    """An empty or endless prompt, an unknown mode or an unknown field never comes to the provider."""
    with pytest.raises(ValidationError) as caught:
        Request.model_validate(wrong)
    assert [error["loc"] for error in caught.value.errors()] == [(field,)]


def test_a_prompt_may_be_as_long_as_the_limit_once_it_is_trimmed() -> None:
    """What is cut off does not count."""
    assert len(Request(prompt=f"  {'x' * PROMPT_MAX_CHARS}\n").prompt) == PROMPT_MAX_CHARS


def test_a_request_is_said_in_a_word() -> None:
    """Logs and run names say what is ordered."""
    assert str(Request(prompt="x", duration=10)) == "standard 10 s"
    assert str(Request(prompt="x", mode=Mode.PRO, take=3)) == "pro 6 s take 3"


def test_equal_values_have_one_spelling() -> None:
    """The order of keys does not count, and letters stay letters."""
    assert canonical_json({"b": "ä", "a": 1}) == canonical_json({"a": 1, "b": "ä"}) == '{"a":1,"b":"ä"}'.encode()
