from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from i2v.errors import Refused, UsageError
from i2v.inputs.prompts import (
    METADATA_MAX_BYTES,
    RequestOptions,
    asked_in_metadata,
    build_request,
    check_template,
    decode_metadata,
    encode_metadata,
    render_prompt,
    request_metadata,
    sidecar,
)
from i2v.media.images import ImageRef
from i2v.request import Mode, Request
from i2v.s3_uri import S3Uri

IMAGES = S3Uri("bucket", "images/")
TOM = ImageRef.parse("s3://bucket/images/cats/tom.cat.jpg")
TRICKY = st.text() | st.text(alphabet="=?_ utf-8QBqb\n\r\tä") | st.from_regex(r"=\?utf-8\?[qb]\?\w*\?=( x)?")


@given(TRICKY)
def test_metadata_brings_back_any_text(text: str) -> None:
    """What is encoded is decoded to the very same text, also line ends and texts that look encoded."""
    encoded = encode_metadata(text)

    assert encoded is None or decode_metadata(encoded) == text


@given(TRICKY)
def test_metadata_is_what_a_header_can_carry(text: str) -> None:
    """Printable ASCII without spaces at its ends or doubled, at most 2 KB."""
    encoded = encode_metadata(text) or ""

    assert encoded == " ".join(encoded.split())
    assert encoded.isascii()
    assert encoded.isprintable()
    assert len(encoded) <= METADATA_MAX_BYTES


def test_plain_text_stays_readable_in_metadata() -> None:
    """Who looks at the object sees the prompt."""
    assert encode_metadata("The cat walks, slowly.") == "The cat walks, slowly."


@pytest.mark.parametrize("text", ["x" * 2049, "ä" * 1000, "猫" * 600])
def test_a_text_over_2_kb_does_not_fit_metadata(text: str) -> None:
    """None tells the caller to put the prompt elsewhere."""
    assert encode_metadata(text) is None


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ("=?UTF-8?Q?S=C3=BC=C3=9F?=", "Süß"),
        ("=?UTF-8?B?U8O8?= =?UTF-8?B?w58=?=", "Süß"),
        ("=?UTF-8?B?U8M=?= =?UTF-8?B?vMOf?=", "Süß"),  # cut within a letter
        ("=?iso-8859-1?q?S=FC=DF?=", "Süß"),
        ("SÃ¼Ã\x9f", "Süß"),  # raw UTF-8, as a client reads it
        ("Süß", "Süß"),
        ("=?klingon?q?x?=", "=?klingon?q?x?="),
        ("=?utf-8?b?AAA?=", "=?utf-8?b?AAA?="),
        ("what =? is it", "what =? is it"),
    ],
)
def test_metadata_of_others_is_read(header: str, text: str) -> None:
    """What S3 and other tools write is understood, and what cannot be is taken literally."""
    assert decode_metadata(header) in {text, "\0\0"}


@given(
    prompt=st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=120),
    mode=st.sampled_from(Mode),
    duration=st.sampled_from([6, 10]),
    take=st.integers(1, 9),
)
def test_a_request_survives_its_metadata(prompt: str, mode: Mode, duration: int, take: int) -> None:
    """A door that reads the metadata comes to the same job as who wrote it."""
    try:
        request = Request(prompt=prompt, mode=mode, duration=duration, take=take)
    except ValidationError:
        return  # nothing but blanks
    metadata = request_metadata(request)

    assert metadata is not None
    assert build_request(asked_in_metadata(metadata), TOM) == request


def test_take_is_in_the_metadata_only_where_it_says_something() -> None:
    """The first take is what everybody means."""
    assert request_metadata(Request(prompt="walk")) == {"prompt": "walk", "mode": "standard", "duration": "6"}
    assert request_metadata(Request(prompt="walk", take=2)) == {
        "prompt": "walk",
        "mode": "standard",
        "duration": "6",
        "take": "2",
    }


def test_all_metadata_together_has_2_kb() -> None:
    """S3 counts names and values of all fields."""
    assert request_metadata(Request(prompt="ä" * 745)) is not None
    assert request_metadata(Request(prompt="ä" * 758)) is None
    assert encode_metadata("ä" * 758) is not None


def test_metadata_without_a_prompt_says_nothing() -> None:
    """Other tools keep things of their own there, such as a file's rights under `mode`."""
    assert asked_in_metadata({"mode": "33188", "duration": "12", "mtime": "1"}) == RequestOptions()
    assert asked_in_metadata({"prompt": "  ", "mode": "33188"}) == RequestOptions()


def test_metadata_of_a_person_is_read_leniently() -> None:
    """Blank fields are silence, spaces do no harm, unknown fields are others' business."""
    asked = asked_in_metadata({"prompt": "=?utf-8?q?S=C3=BC=C3=9F?=", "mode": " pro ", "duration": "", "author": "me"})

    assert asked == RequestOptions(prompt="Süß", mode=Mode.PRO)


@pytest.mark.parametrize("field", [{"mode": "fast"}, {"duration": "7"}, {"duration": "six"}, {"take": "0"}])
def test_metadata_that_cannot_be_meant_is_refused(field: dict[str, str]) -> None:
    """A wrong field is named with its value, and nothing else is guessed."""
    ((name, value),) = field.items()
    with pytest.raises(Refused, match=f"{TOM.label} has metadata {name}='{value}'") as caught:
        asked_in_metadata({"prompt": "walk", **field}, TOM.label)

    assert caught.value.rule == "metadata_invalid"


def test_the_higher_place_wins_field_by_field() -> None:
    """What a place is silent about is asked of the next."""
    manifest = RequestOptions(prompt="walk", duration=10)
    metadata = RequestOptions(prompt="run", mode=Mode.PRO)
    flow = RequestOptions(prompt="sleep", mode=Mode.STANDARD, duration=6, take=3)

    assert manifest.over(metadata).over(flow) == RequestOptions(prompt="walk", mode=Mode.PRO, duration=10, take=3)


@pytest.mark.parametrize("blank", ["", "  ", "\n"])
def test_a_blank_text_is_silence(blank: str) -> None:
    """An empty cell of a table says nothing."""
    assert (
        RequestOptions.model_validate({"prompt": blank, "mode": blank, "duration": blank, "take": blank})
        == RequestOptions()
    )


@pytest.mark.parametrize(
    ("image", "rendered"),
    [
        ("s3://bucket/images/cats/tom.cat.jpg", "tom.cat|cats/tom.cat.jpg|cats"),
        ("s3://bucket/images/tom.jpg", "tom|tom.jpg|"),
        ("s3://bucket/images/a/b/tom", "tom|a/b/tom|a/b"),
        ("s3://bucket/images/{stem}/{x}.jpg", "{x}|{stem}/{x}.jpg|{stem}"),
        ("s3://bucket/archive/tom.jpg", "tom|archive/tom.jpg|archive"),
        ("s3://other/images/tom.jpg", "tom|images/tom.jpg|images"),
        ("https://example.org/cats/tom%20cat.jpg?sig=SECRET", "tom cat|cats/tom cat.jpg|cats"),
        ("https://example.org?sig=SECRET", "||"),
    ],
)
def test_a_template_knows_its_image(image: str, rendered: str) -> None:
    """Stem, key and folder are those below the images prefix; what they hold is not a template again."""
    assert render_prompt("{stem}|{key}|{folder}", ImageRef.parse(image), IMAGES) == rendered


def test_double_braces_are_braces() -> None:
    """A prompt may hold JSON."""
    assert render_prompt('{{"cat": "{stem}"}}', TOM, IMAGES) == '{"cat": "tom.cat"}'


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("a {name}", "{name}"),
        ("a {}", "{}"),
        ("a {0}", "{0}"),
        ("{key.__class__}", "{key.__class__}"),
        ("{key[0]}", "{key[0]}"),
        ("{stem!r}", "{stem!r}"),
        ("{stem:>9}", "{stem:>9}"),
        ("{stem:{key}}", "{stem:{key}}"),
        ("a { b", "a lone brace"),
        ("a } b", "a lone brace"),
        ("{stem", "a lone brace"),
    ],
)
def test_an_unknown_field_of_a_template_is_wrong_usage(template: str, told: str) -> None:
    """It is named with what is known, before any image is looked at."""
    with pytest.raises(UsageError) as caught:
        check_template(template)

    assert told in caught.value.message
    assert "{stem}, {key}, {folder}" in caught.value.hint


def test_a_sidecar_lies_beside_its_image() -> None:
    """Its name is the image's with .txt behind."""
    assert sidecar(S3Uri("bucket", "images/tom.jpg")) == S3Uri("bucket", "images/tom.jpg.txt")


def test_where_nothing_is_said_the_defaults_hold() -> None:
    """Standard, 6 s, the first take."""
    assert build_request(RequestOptions(prompt=" walk\r\n"), TOM) == Request(prompt="walk")


def test_pro_is_six_seconds_whatever_another_place_says() -> None:
    """The provider makes no other, so a duration of 10 from elsewhere is not paid for."""
    assert build_request(RequestOptions(prompt="walk", mode=Mode.PRO, duration=10), TOM).duration == 6


@pytest.mark.parametrize("prompt", [None, "", " \n\t "])
def test_an_image_without_a_prompt_is_refused(prompt: str | None) -> None:
    """The hint lists every place where one may stand."""
    with pytest.raises(Refused, match=f"{TOM.label} has no prompt") as caught:
        build_request(RequestOptions(prompt=prompt), TOM)

    assert caught.value.rule == "prompt_missing"
    for place in ("--prompt", "manifest", "metadata", "tom.jpg.txt", "I2V_DEFAULT_PROMPT"):
        assert place in caught.value.hint


def test_a_prompt_of_2000_characters_is_taken_and_one_more_refused() -> None:
    """Characters are counted as they are sent: trimmed and composed."""
    assert len(build_request(RequestOptions(prompt=" " + "u\u0308" * 2000), TOM).prompt) == 2000
    with pytest.raises(Refused, match=r"too long: 2,001 characters, and the limit is 2,000") as caught:
        build_request(RequestOptions(prompt="x" * 2001), TOM)

    assert caught.value.rule == "prompt_too_long"
