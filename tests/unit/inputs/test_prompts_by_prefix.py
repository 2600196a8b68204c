from __future__ import annotations

import json

import pytest

from i2v.errors import UsageError
from i2v.inputs.prompt_templates import check_templates
from i2v.inputs.prompts import RequestOptions, default_options
from i2v.media.images import ImageRef
from tests.support.settings import MakeSettings

PROMPTS = {"cats/": "it purrs", "cats/wild/": "it hunts", "dogs": "it barks"}


@pytest.mark.parametrize(
    ("image", "prompt"),
    [
        ("s3://photos/images/cats/tom.jpg", "it purrs"),
        ("s3://photos/images/cats/wild/leo.jpg", "it hunts"),
        ("s3://photos/images/dogs-2026/rex.jpg", "it barks"),
        ("s3://photos/images/catsup.jpg", "it moves"),
        ("s3://photos/images/more/cats/tom.jpg", "it moves"),
        ("s3://other/cats/tom.jpg", "it moves"),
        ("https://example.com/cats/tom.jpg", "it moves"),
    ],
)
def test_the_longest_matching_prefix_gives_the_prompt(make_settings: MakeSettings, image: str, prompt: str) -> None:
    """Prefixes match the key below the images prefix; otherwise the default prompt applies."""
    settings = make_settings(
        I2V_BUCKET="photos", I2V_PROMPTS_BY_PREFIX=json.dumps(PROMPTS), I2V_DEFAULT_PROMPT="it moves"
    )

    assert default_options(RequestOptions(), ImageRef.parse(image), settings).prompt == prompt


def test_without_any_prompt_there_is_none(make_settings: MakeSettings) -> None:
    """Without a setting there is no default prompt."""
    image = ImageRef.parse("s3://photos/images/a.jpg")
    assert default_options(RequestOptions(), image, make_settings(I2V_BUCKET="photos")).prompt is None


@pytest.mark.parametrize(
    ("variables", "setting"),
    [
        ({"I2V_PROMPTS_BY_PREFIX": '{"cats/": "a {tail}"}'}, "I2V_PROMPTS_BY_PREFIX, 'cats/'"),
        ({"I2V_DEFAULT_PROMPT": "a {tail}"}, "I2V_DEFAULT_PROMPT"),
    ],
)
def test_an_invalid_template_is_reported_with_its_setting(
    make_settings: MakeSettings, variables: dict[str, str], setting: str
) -> None:
    """The error names the setting, unless the run has a prompt that overrides it."""
    settings = make_settings(**variables)

    with pytest.raises(UsageError, match=r"unknown field \{tail\}") as caught:
        check_templates(None, settings)
    assert caught.value.message.startswith(f"{setting}: ")
    check_templates("it moves", settings)
