from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from i2v.errors import Refused, UsageError
from i2v.inputs.metadata_text import METADATA_MAX_BYTES, decode_metadata, encode_metadata
from i2v.inputs.prompt_templates import check_templates, render_prompt
from i2v.inputs.prompts import (
    RequestOptions,
    build_request,
    default_options,
    metadata_options,
    options_of_object,
    request_metadata,
    sidecar,
)
from i2v.media.images import ImageRef
from i2v.request import Mode, Request
from i2v.s3_uri import S3Uri
from tests.support.memory_storage import MemoryStorage
from tests.support.settings import MakeSettings

IMAGES = S3Uri("bucket", "images/")
TOM = ImageRef.parse("s3://bucket/images/cats/tom.cat.jpg")
TRICKY = st.text() | st.text(alphabet="=?_ utf-8QBqb\n\r\tä") | st.from_regex(r"=\?utf-8\?[qb]\?\w*\?=( x)?")


@given(TRICKY)
def test_metadata_round_trips_any_text(text: str) -> None:
    """Encoded text decodes to the same text, also with line breaks and text that looks encoded."""
    encoded = encode_metadata(text)

    assert encoded is None or decode_metadata(encoded) == text


@given(TRICKY)
def test_metadata_is_a_valid_header_value(text: str) -> None:
    """Encoded text is printable ASCII without leading, trailing or repeated spaces, and at most 2 KB."""
    encoded = encode_metadata(text) or ""

    assert encoded == " ".join(encoded.split())
    assert encoded.isascii()
    assert encoded.isprintable()
    assert len(encoded) <= METADATA_MAX_BYTES


def test_plain_text_stays_readable_in_metadata() -> None:
    """A plain ASCII prompt is readable in the S3 console."""
    assert encode_metadata("The cat walks, slowly.") == "The cat walks, slowly."


@pytest.mark.parametrize("text", ["x" * 2049, "ä" * 1000, "猫" * 600])
def test_text_over_2_kb_does_not_fit_into_metadata(text: str) -> None:
    """Text that is too long encodes to None."""
    assert encode_metadata(text) is None


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ("=?UTF-8?Q?S=C3=BC=C3=9F?=", "Süß"),
        ("=?UTF-8?B?U8O8?= =?UTF-8?B?w58=?=", "Süß"),
        ("=?UTF-8?B?U8M=?= =?UTF-8?B?vMOf?=", "Süß"),  # split within a character
        ("=?iso-8859-1?q?S=FC=DF?=", "Süß"),
        ("SÃ¼Ã\x9f", "Süß"),  # raw UTF-8, as a client reads it
        ("Süß", "Süß"),
        ("=?klingon?q?x?=", "=?klingon?q?x?="),
        ("=?utf-8?b?AAA?=", "=?utf-8?b?AAA?="),
        ("what =? is it", "what =? is it"),
    ],
)
def test_metadata_of_other_tools_is_decoded(header: str, text: str) -> None:
    """Values that S3 and other tools write are decoded; a value that cannot be decoded is returned unchanged."""
    assert decode_metadata(header) in {text, "\0\0"}


@given(
    prompt=st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=120),
    mode=st.sampled_from(Mode),
    duration=st.sampled_from([6, 10]),
    take=st.integers(1, 9),
)
def test_a_request_round_trips_through_metadata(prompt: str, mode: Mode, duration: int, take: int) -> None:
    """A request that is read from metadata is the one that was written, so it is the same job."""
    try:
        request = build_request(RequestOptions(prompt=prompt, mode=mode, duration=duration, take=take), TOM)
    except Refused:
        return  # no text that somebody wrote
    metadata = request_metadata(request)

    assert metadata is not None
    assert build_request(metadata_options(metadata), TOM) == request


def test_only_a_take_above_1_is_in_the_metadata() -> None:
    """Take 1 is the default and is left out."""
    assert request_metadata(Request(prompt="walk")) == {"prompt": "walk", "mode": "standard", "duration": "6"}
    assert request_metadata(Request(prompt="walk", take=2)) == {
        "prompt": "walk",
        "mode": "standard",
        "duration": "6",
        "take": "2",
    }


def test_all_metadata_together_fits_into_2_kb() -> None:
    """The limit of 2 KB counts the names and values of all fields."""
    assert request_metadata(Request(prompt="ä" * 745)) is not None
    assert request_metadata(Request(prompt="ä" * 758)) is None
    assert encode_metadata("ä" * 758) is not None


def test_metadata_without_a_prompt_is_ignored() -> None:
    """Fields of other tools, such as file permissions in `mode`, are not request options."""
    assert metadata_options({"mode": "33188", "duration": "12", "mtime": "1"}) == RequestOptions()
    assert metadata_options({"prompt": "  ", "mode": "33188"}) == RequestOptions()


def test_handwritten_metadata_is_read_leniently() -> None:
    """Blank fields and unknown fields are ignored, and spaces are trimmed."""
    options = metadata_options({"prompt": "=?utf-8?q?S=C3=BC=C3=9F?=", "mode": " pro ", "duration": "", "author": "me"})

    assert options == RequestOptions(prompt="Süß", mode=Mode.PRO, prompt_source="metadata")


@pytest.mark.parametrize("field", [{"mode": "fast"}, {"duration": "7"}, {"duration": "six"}, {"take": "0"}])
def test_invalid_metadata_is_refused(field: dict[str, str]) -> None:
    """The error names the invalid field and its value."""
    ((name, value),) = field.items()
    with pytest.raises(Refused, match=f"{TOM.label} has metadata {name}='{value}'") as caught:
        metadata_options({"prompt": "walk", **field}, TOM.label)

    assert caught.value.rule == "metadata_invalid"


def test_the_higher_place_wins_field_by_field() -> None:
    """A field that one place does not set comes from the next."""
    row = RequestOptions(prompt="walk", duration=10)
    metadata = RequestOptions(prompt="run", mode=Mode.PRO)
    flow = RequestOptions(prompt="sleep", mode=Mode.STANDARD, duration=6, take=3)

    assert row.over(metadata).over(flow) == RequestOptions(prompt="walk", mode=Mode.PRO, duration=10, take=3)


PLACES = ("row", "metadata", "sidecar", "run", "prefix", "settings")


@pytest.mark.parametrize("first", range(len(PLACES)))
async def test_the_prompt_comes_from_the_first_place_that_has_one(make_settings: MakeSettings, first: int) -> None:
    """The order is batch file row, metadata, sidecar, the run's prompt, prompt by prefix, default prompt."""
    prompts = {place: place if number >= first else None for number, place in enumerate(PLACES)}
    by_prefix = f'{{"cats/": "{prompts["prefix"]}"}}' if prompts["prefix"] else "{}"
    settings = make_settings(
        I2V_BUCKET="bucket", I2V_PROMPTS_BY_PREFIX=by_prefix, I2V_DEFAULT_PROMPT=prompts["settings"] or ""
    )
    storage = MemoryStorage()
    if prompts["sidecar"]:
        await storage.put(S3Uri("bucket", "images/cats/tom.cat.jpg.txt"), b"sidecar")

    row, metadata = RequestOptions(prompt=prompts["row"]), {"prompt": prompts["metadata"] or ""}
    options = await options_of_object(row, TOM, metadata, storage)
    options = options.over(default_options(RequestOptions(prompt=prompts["run"]), TOM, settings))

    assert options.prompt == PLACES[first]


@pytest.mark.parametrize("blank", ["", "  ", "\n"])
def test_blank_text_is_not_set(blank: str) -> None:
    """An empty cell of a table sets no option."""
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
def test_a_template_is_filled_with_its_image(image: str, rendered: str) -> None:
    """Stem, key and folder are relative to the images prefix, and their values are not templates themselves."""
    assert render_prompt("{stem}|{key}|{folder}", ImageRef.parse(image), IMAGES) == rendered


def test_double_braces_are_braces() -> None:
    """A prompt may contain JSON."""
    assert render_prompt('{{"cat": "{stem}"}}', TOM, IMAGES) == '{"cat": "tom.cat"}'


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("a {name}", "{name}"),
        ("a {}", "{}"),
        ("a {0}", "{0}"),
        ("{key.__class__}", "{key.__class__}"),
        ("{key[0]}", "{key[0]}"),
        ("{stem!r}", "{stem!r}"),
        ("{stem:>9}", "{stem:>9}"),
        ("{stem:{key}}", "{stem:{key}}"),
        ("a { b", "an unmatched brace"),
        ("a } b", "an unmatched brace"),
        ("{stem", "an unmatched brace"),
    ],
)
def test_an_unknown_field_of_a_template_is_wrong_usage(
    make_settings: MakeSettings, template: str, message: str
) -> None:
    """The error names the unknown field and lists the known ones."""
    with pytest.raises(UsageError) as caught:
        check_templates(template, make_settings())

    assert message in caught.value.message
    assert "{stem}, {key}, {folder}" in caught.value.hint


def test_a_sidecar_is_next_to_its_image() -> None:
    """The name of a sidecar is that of the image plus .txt."""
    assert sidecar(S3Uri("bucket", "images/tom.jpg")) == S3Uri("bucket", "images/tom.jpg.txt")


def test_defaults_apply_if_nothing_is_set() -> None:
    """The default request is standard, 6 s, take 1."""
    assert build_request(RequestOptions(prompt=" walk\r\n"), TOM) == Request(prompt="walk")


def test_pro_is_always_six_seconds() -> None:
    """A duration of 10 from another place is ignored for pro."""
    assert build_request(RequestOptions(prompt="walk", mode=Mode.PRO, duration=10), TOM).duration == 6


@pytest.mark.parametrize("prompt", [None, "", " \n\t "])
def test_an_image_without_a_prompt_is_refused(prompt: str | None) -> None:
    """The hint lists every place for a prompt."""
    with pytest.raises(Refused, match=f"{TOM.label} has no prompt") as caught:
        build_request(RequestOptions(prompt=prompt), TOM)

    assert caught.value.rule == "prompt_missing"
    for place in ("--prompt", "batch file", "metadata", "tom.jpg.txt", "I2V_DEFAULT_PROMPT"):
        assert place in caught.value.hint


def test_a_prompt_of_2000_characters_is_valid_and_one_more_is_refused() -> None:
    """Characters are counted after trimming and Unicode composition, as they are sent."""
    assert len(build_request(RequestOptions(prompt=" " + "u\u0308" * 2000), TOM).prompt) == 2000
    with pytest.raises(Refused, match=r"too long: 2,001 characters; the limit is 2,000") as caught:
        build_request(RequestOptions(prompt="x" * 2001), TOM)

    assert caught.value.rule == "prompt_too_long"


@pytest.mark.parametrize(
    ("prompt", "rule"),
    [
        ("w\0a\0l\0k\0", "prompt_unreadable"),
        ("walk\x07", "prompt_unreadable"),
        ("walk\x85\x9b31m", "prompt_unreadable"),
        ("\u200b", "prompt_missing"),
        ("\ufeff\u2060\u00ad", "prompt_missing"),
        ("\u3164 \u2800", "prompt_missing"),
        ("\ufe0f", "prompt_missing"),
    ],
)
def test_a_prompt_that_nobody_wrote_is_refused(prompt: str, rule: str) -> None:
    """Control characters are a sign of a wrong encoding, and a prompt that cannot be seen is none."""
    with pytest.raises(Refused) as caught:
        build_request(RequestOptions(prompt=prompt), TOM)
    assert caught.value.rule == rule


@pytest.mark.parametrize("prompt", ["walk\tslowly\nthen stop", "🐈", "猫が歩く", "?", "a\u200db", "e\u0301"])
def test_a_prompt_that_somebody_wrote_is_accepted(prompt: str) -> None:
    """White space, emoji and joined characters are text."""
    assert build_request(RequestOptions(prompt=prompt), TOM).prompt


@pytest.mark.parametrize("value", ["=?UTF-8?B?###?=", "=?UTF-8?B?YWJ?=", "=?no-such?Q?abc?=", "=?UTF-8?B?/w==?="])
def test_metadata_that_cannot_be_decoded_is_taken_literally(value: str) -> None:
    """A prompt in metadata never vanishes, so that another one would be paid."""
    assert decode_metadata(value) == value
    assert metadata_options({"prompt": value}).prompt == value
