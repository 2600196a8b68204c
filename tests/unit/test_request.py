"""A request, and the job key of a request with an image."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from i2v.request import PROMPT_MAX_CHARS, Mode, Request, canonical_json, clean_prompt

IMAGE = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("  a slow zoom \n", "a slow zoom"),
        ("one\r\ntwo\rthree\nfour", "one\ntwo\nthree\nfour"),
        ("cafe\u0301", "caf\u00e9"),
        ("\u00a0zoom\u2003", "zoom"),
        ("two  blanks\tand a tab", "two  blanks\tand a tab"),
        ("\u2126", "\u03a9"),
    ],
    ids=["whitespace", "line breaks", "accents", "wide spaces", "inside", "ohm"],
)
def test_a_prompt_is_normalized(text: str, prompt: str) -> None:
    """Prompts that differ only in outer whitespace, line breaks or Unicode composition are the same job."""
    assert Request(prompt=text).prompt == prompt
    assert Request(prompt=text).job_key(IMAGE) == Request(prompt=prompt).job_key(IMAGE)


@given(st.text(max_size=200))
def test_normalizing_twice_changes_nothing(text: str) -> None:
    """A normalized prompt is NFC, without carriage returns or leading and trailing whitespace."""
    cleaned = clean_prompt(text)
    assert clean_prompt(cleaned) == cleaned
    assert "\r" not in cleaned
    assert cleaned == cleaned.strip()
    assert unicodedata.is_normalized("NFC", cleaned)


def test_the_job_key_never_changes() -> None:
    """A job key is stable: if it changed, all videos would be paid for again."""
    request = Request(mode=Mode.STANDARD, duration=10, prompt="Käfer\nkrabbelt", take=2)
    assert request.job_key(IMAGE) == "19e45c84b8784436bd714fab550f386a311469de619f607f15b3363a3880000a"
    assert request.digest12 == "d373a49a6f24"


def test_the_default_request_is_standard_of_six_seconds() -> None:
    """The default is the cheapest video."""
    assert Request(prompt="zoom").model_dump(mode="json") == {
        "mode": "standard",
        "duration": 6,
        "prompt": "zoom",
        "take": 1,
    }


def test_each_field_of_a_request_changes_the_job_key() -> None:
    """Mode, duration, prompt, take and image content are all part of the job key."""
    first = Request(prompt="zoom")
    requests = [first, *(first.model_copy(update=change) for change in ({"duration": 10}, {"take": 2}))]
    requests += [Request(prompt="zoom", mode=Mode.PRO), Request(prompt="Zoom")]
    keys = {request.job_key(IMAGE) for request in requests} | {first.job_key("f" * 64)}
    assert len(keys) == 6
    assert len({request.digest12 for request in requests}) == 5


@pytest.mark.parametrize("seconds", ["6", "10", " 10 ", 6, 10])
def test_a_duration_may_be_a_string(seconds: object) -> None:
    """Batch files and object metadata have strings only."""
    assert Request.model_validate({"prompt": "zoom", "duration": seconds}).duration == int(str(seconds))


@pytest.mark.parametrize("seconds", [5, 0, -6, "5", "six", "6.0", "", None, 6.5, "٦٠"])
def test_other_durations_are_rejected(seconds: object) -> None:
    """The provider offers only 6 and 10 seconds."""
    with pytest.raises(ValidationError, match="duration"):
        Request.model_validate({"prompt": "zoom", "duration": seconds})


@pytest.mark.parametrize("duration", [6, 10, "10", 7, None])
@pytest.mark.parametrize("mode", ["pro", Mode.PRO])
def test_pro_is_always_six_seconds(duration: object, mode: object) -> None:
    """The provider ignores the duration of pro, so it must not make another job."""
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
def test_an_invalid_request_names_its_field(wrong: dict[str, object], field: str) -> None:
    """An empty or too long prompt, an unknown mode or an unknown field is rejected."""
    with pytest.raises(ValidationError) as caught:
        Request.model_validate(wrong)
    assert [error["loc"] for error in caught.value.errors()] == [(field,)]


def test_the_length_limit_applies_to_the_trimmed_prompt() -> None:
    """Trimmed whitespace does not count."""
    assert len(Request(prompt=f"  {'x' * PROMPT_MAX_CHARS}\n").prompt) == PROMPT_MAX_CHARS


def test_a_request_as_text() -> None:
    """Logs and run names show mode, duration and take."""
    assert str(Request(prompt="x", duration=10)) == "standard 10 s"
    assert str(Request(prompt="x", mode=Mode.PRO, take=3)) == "pro 6 s take 3"


def test_equal_values_have_equal_json() -> None:
    """The order of keys does not matter, and non-ASCII letters are not escaped."""
    assert canonical_json({"b": "ä", "a": 1}) == canonical_json({"a": 1, "b": "ä"}) == '{"a":1,"b":"ä"}'.encode()
