"""The environment variables: which values they accept, and what the message for an invalid value says."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from decimal import Decimal
from typing import Any

import pytest
from pydantic import SecretStr

from i2v.errors import UsageError
from i2v.pricing import PRICES_USD
from i2v.s3_uri import S3Uri
from i2v.settings import Settings, read_settings
from tests.support.settings import SealedSettings

SECRET = "hunter2-is-a-secret"
NEW, OLD = "the-new-secret-of-16", "the-old-secret-of-16"
Read = Callable[..., Settings]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Read:
    """Return a function that reads settings from an environment with only these variables."""

    def with_variables(**variables: str) -> Settings:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return read_settings()

    return with_variables


GOOD: list[tuple[str, str, str, object]] = [
    ("APIXO_BASE_URL", "https://127.0.0.1:8000/api/", "base_url", "https://127.0.0.1:8000/api"),
    ("APIXO_PROVIDER", "official", "provider_route", "official"),
    ("I2V_BUCKET", "b-1", "bucket", "b-1"),
    ("I2V_IMAGES_PREFIX", "s3://photos/in/", "images_prefix", "s3://photos/in/"),
    ("I2V_VIDEOS_PREFIX", "out/films/", "videos_prefix", "out/films/"),
    ("I2V_PUBLISH_AS", "out/{folder}{stem}.mp4", "publish_as", "out/{folder}{stem}.mp4"),
    ("I2V_JOBS_PREFIX", "s3://ledger/", "jobs_prefix", "s3://ledger/"),
    ("I2V_S3_EXTRA_ARGS", '{"ACL": "private"}', "s3_extra_args", {"ACL": "private"}),
    ("I2V_POLL_FIRST_SECONDS", "0.5", "poll_first_seconds", 0.5),
    ("I2V_POLL_EVERY_SECONDS", "1", "poll_every_seconds", 1.0),
    ("I2V_POLL_DEADLINE_SECONDS", "60", "poll_deadline_seconds", 60.0),
    ("I2V_LEASE_SECONDS", "200", "lease_seconds", 200.0),
    ("I2V_RUN_GONE_SECONDS", "90", "run_gone_seconds", 90.0),
    ("I2V_SETTLING_SECONDS", "0", "settling_seconds", 0.0),
    ("I2V_PRESIGN_SECONDS", "604800", "presign_seconds", 604_800),
    ("I2V_LINK_SECONDS", "0", "link_seconds", 0),
    ("I2V_LOG_FORMAT", "json", "log_format", "json"),
    ("I2V_SUBMIT_PATIENCE_SECONDS", "5", "submit_patience_seconds", 5.0),
    ("I2V_MAX_IN_FLIGHT", "7", "max_in_flight", 7),
    ("I2V_MAX_CONNECTIONS", "3", "max_connections", 3),
    ("I2V_MAX_ATTEMPTS", "1", "max_attempts", 1),
    ("I2V_FIRST_SUBMITS", "0", "first_submits", 0),
    ("I2V_MAX_VIDEO_BYTES", "1000", "max_video_bytes", 1000),
    ("I2V_DAILY_CAP_USD", "0", "daily_cap_usd", Decimal(0)),
    ("I2V_DAILY_CAP_USD", "19.20", "daily_cap_usd", Decimal("19.20")),
    (
        "I2V_LIMITS",
        '{"*": {"day": 1, "month": 20.5}, "": {"day": "0"}}',
        "limits",
        {"*": {"day": Decimal(1), "month": Decimal("20.5")}, "": {"day": Decimal(0)}},
    ),
    (
        "I2V_PRICES_USD",
        '{"standard-6": "0.1", "pro-6": 0.3}',
        "prices_usd",
        {"standard-6": Decimal("0.1"), "pro-6": Decimal("0.3")},
    ),
    ("I2V_ACCOUNT_LABEL", "team", "account_label", "team"),
    ("I2V_PRIVATE_HOSTS", " Minio:9000, localhost ,,", "private_hosts", frozenset({"minio:9000", "localhost"})),
    ("I2V_DEFAULT_PROMPT", "zoom on {stem}", "default_prompt", "zoom on {stem}"),
    ("I2V_PROMPTS_BY_PREFIX", '{"cats/": "purr"}', "prompts_by_prefix", {"cats/": "purr"}),
    ("I2V_APIXO_KEY_BLOCK", "team", "key_block", "team"),
    ("I2V_AWS_CREDENTIALS_BLOCK", "team-s3", "aws_block", "team-s3"),
    ("I2V_CALLBACK_BASE_URL", "https://door.example/i2v/", "callback_base_url", "https://door.example/i2v"),
    ("I2V_CALLBACK_SECRET", f" {NEW}, {OLD},", "callback_secrets", (SecretStr(NEW), SecretStr(OLD))),
    ("I2V_CALLBACK_PATIENCE_SECONDS", "5", "callback_patience_seconds", 5.0),
    ("I2V_SQS_QUEUE_URL", "http://127.0.0.1:4566/0/q", "sqs_queue_url", "http://127.0.0.1:4566/0/q"),
    ("I2V_DOOR_TOKEN", f"\t{NEW}\n", "door_token", SecretStr(NEW)),
    ("I2V_DOOR_HOST", "0.0.0.0", "door_host", "0.0.0.0"),  # noqa: S104 - behind a reverse proxy
    ("I2V_DOOR_PORT", "0", "door_port", 0),
    ("I2V_GALLERY_TOKEN", "0123456789abcde!", "gallery_token", SecretStr("0123456789abcde!")),
]


@pytest.mark.parametrize(("variable", "text", "field", "value"), GOOD)
def test_each_variable_is_read(read: Read, variable: str, text: str, field: str, value: object) -> None:
    """Every variable sets its setting, converted to its type."""
    assert getattr(read(**{variable: text}), field) == value


def test_every_setting_has_its_variable() -> None:
    """Every setting is tested above, and its variable has one of our prefixes."""
    variables = {str(field.validation_alias) for field in Settings.model_fields.values()}
    assert all(name.startswith(("I2V_", "APIXO_")) for name in variables)
    assert {"APIXO_API_KEY", *(name for name, *_ in GOOD)} == variables, "a setting without a test"


DEFAULTS = {
    "base_url": "https://api.apixo.ai/api/v1",
    "images_prefix": "images/",
    "videos_prefix": "videos/",
    "jobs_prefix": "jobs/",
    "poll_first_seconds": 30,
    "poll_every_seconds": 10,
    "poll_deadline_seconds": 1800,
    "lease_seconds": 300,
    "settling_seconds": 120,
    "max_in_flight": 1000,
    "daily_cap_usd": None,
    "default_prompt": None,
    "max_attempts": 2,
    "first_submits": 8,
}


def test_the_defaults_are_the_documented_ones(read: Read) -> None:
    """The defaults on which users rely."""
    settings = read()
    assert {name: getattr(settings, name) for name in DEFAULTS} == DEFAULTS


def test_an_empty_variable_counts_as_unset(read: Read) -> None:
    """`I2V_DAILY_CAP_USD=` in a file of variables sets nothing."""
    settings = read(I2V_DAILY_CAP_USD="", I2V_IMAGES_PREFIX="", APIXO_API_KEY="", I2V_MAX_IN_FLIGHT="")
    assert (settings.daily_cap_usd, settings.images_prefix, settings.api_key) == (None, "images/", None)


SECONDS = ["POLL_FIRST", "POLL_EVERY", "POLL_DEADLINE", "LEASE", "RUN_GONE", "PRESIGN", "SUBMIT_PATIENCE"]
NUMBERS = [f"I2V_{name}_SECONDS" for name in SECONDS] + [
    f"I2V_{name}" for name in ("MAX_IN_FLIGHT", "MAX_CONNECTIONS", "MAX_ATTEMPTS", "MAX_VIDEO_BYTES")
]


@pytest.mark.parametrize("text", ["abc", "0", "-1", "nan", "1 h"])
@pytest.mark.parametrize("variable", NUMBERS)
def test_an_invalid_number_names_its_variable(read: Read, variable: str, text: str) -> None:
    """Only numbers above 0 are accepted, and the message names the variable."""
    with pytest.raises(UsageError, match=f"^{variable}: "):
        read(**{variable: text})


@pytest.mark.parametrize("text", ["inf", "1e400"])
@pytest.mark.parametrize("variable", [name for name in NUMBERS if name.endswith("_SECONDS") and "PRESIGN" not in name])
def test_a_duration_is_finite(read: Read, variable: str, text: str) -> None:
    """Infinity is not accepted as a duration."""
    with pytest.raises(UsageError, match=f"^{variable}: "):
        read(**{variable: text})


@pytest.mark.parametrize("variable", ["I2V_DOOR_TOKEN", "I2V_GALLERY_TOKEN", "I2V_CALLBACK_SECRET"])
@pytest.mark.parametrize(
    "text", [" ", "\t\n", "hunter2", "hunter2" + " " * 20, "hunter2 is a secret", "hunter2-is-ä-secret"]
)
def test_a_guessable_secret_is_rejected(read: Read, variable: str, text: str) -> None:
    """A blank, short, spaced or non-ASCII token is an error that does not show it, and never opens anything."""
    if variable == "I2V_CALLBACK_SECRET":
        text = f"{NEW},{text},x"
    with pytest.raises(UsageError, match=rf"^{variable}.*at least 16 characters") as caught:
        read(**{variable: text})
    assert "hunter2" not in str(caught.value)


BAD = [
    ("I2V_DAILY_CAP_USD", "-0.01"),
    ("I2V_DAILY_CAP_USD", "nan"),
    ("I2V_DAILY_CAP_USD", "inf"),
    ("I2V_DAILY_CAP_USD", "$5"),
    ("I2V_DAILY_CAP_USD", "5,00"),
    ("I2V_PRESIGN_SECONDS", "604801"),
    ("I2V_LINK_SECONDS", "604801"),
    ("I2V_LINK_SECONDS", "-1"),
    ("I2V_FIRST_SUBMITS", "-1"),
    ("I2V_FIRST_SUBMITS", "many"),
    ("I2V_LEASE_SECONDS", "9.99"),
    ("APIXO_BASE_URL", "https://api.apixo.ai/api/v1?key=k"),
    ("APIXO_BASE_URL", "https://api.apixo.ai/api/v1#top"),
    ("I2V_LOG_FORMAT", "xml"),
    ("I2V_MAX_ATTEMPTS", "1.5"),
    ("APIXO_BASE_URL", "api.apixo.ai"),
    ("APIXO_BASE_URL", "ftp://api.apixo.ai"),
    ("APIXO_BASE_URL", "https://"),
    ("APIXO_BASE_URL", "http://api.apixo.ai/api/v1"),
    ("APIXO_BASE_URL", "http://localhost:8000"),
    ("I2V_S3_EXTRA_ARGS", "aws:kms"),
    ("I2V_S3_EXTRA_ARGS", "[]"),
    ("I2V_PRICES_USD", "0.192"),
    ("I2V_PRICES_USD", "{"),
    ("I2V_PRICES_USD", "[1]"),
    ("I2V_PRICES_USD", '{"standard-7": 1}'),
    ("I2V_PRICES_USD", '{"standard-6": -1}'),
    ("I2V_PRICES_USD", '{"standard-6": NaN}'),
    ("I2V_PRICES_USD", '{"standard-6": null}'),
    *(
        (f"I2V_{name}_PREFIX", text)
        for name in ("IMAGES", "VIDEOS", "JOBS")
        for text in ("images", "/", "/images/", "a//b/", "s3://bucket", "s3://Bucket/a/", "s3:///a/", "S3://b-1/a/")
    ),
]


@pytest.mark.parametrize(("variable", "text"), BAD)
def test_an_invalid_value_names_its_variable(read: Read, variable: str, text: str) -> None:
    """An invalid value is a UsageError with exit code 2, whose one line begins with the variable."""
    with pytest.raises(UsageError, match=rf"^{variable}[.:]") as caught:
        read(**{variable: text})
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("APIXO_BASE_URL", SECRET),
        ("APIXO_BASE_URL", f"ftp://user:{SECRET}@host.example/"),
        ("APIXO_BASE_URL", f"https://user:{SECRET}@host.example/"),
        ("APIXO_BASE_URL", f"https://{SECRET}@host.example/"),
        ("I2V_PRICES_USD", SECRET),
        ("I2V_PRICES_USD", f'{{"standard-6": "{SECRET}"}}'),
        ("I2V_DAILY_CAP_USD", SECRET),
        ("I2V_MAX_IN_FLIGHT", SECRET),
    ],
)
def test_no_message_repeats_a_value(read: Read, variable: str, text: str) -> None:
    """A key that was set to the wrong variable is printed neither in the message nor in its cause."""
    with pytest.raises(UsageError) as caught:
        read(APIXO_API_KEY=SECRET, **{variable: text})
    assert SECRET not in str(caught.value)
    assert caught.value.__suppress_context__
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("user", ["me:pass@", "me@", ":pass@", "@"])
def test_the_base_url_has_no_user(read: Read, user: str) -> None:
    """A user name in APIXO_BASE_URL is refused, because httpx would send it in place of the key."""
    with pytest.raises(UsageError, match=r"^APIXO_BASE_URL: it must not have a user name.*APIXO_API_KEY") as caught:
        read(APIXO_BASE_URL=f"https://{user}api.apixo.ai/api/v1")
    assert "pass@" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("http://LOCALHOST:8000/api", "localhost"),
        ("http://localhost:8000/api", "a.example,localhost:8000"),
        ("http://10.0.0.1", "10.0.0.1:80"),
        ("http://[::1]:8000", "[::1]:8000"),
    ],
)
def test_the_key_is_sent_unencrypted_to_private_hosts_only(read: Read, url: str, hosts: str) -> None:
    """A base URL with http:// is allowed if its host is listed, and else refused with the way out."""
    assert read(APIXO_BASE_URL=url, I2V_PRIVATE_HOSTS=hosts).base_url == url
    with pytest.raises(UsageError, match=r"^APIXO_BASE_URL: it must begin with https://.* I2V_PRIVATE_HOSTS"):
        read(APIXO_BASE_URL=url, I2V_PRIVATE_HOSTS="localhost:1,10.0.0.1:81,[::1]:80")


@pytest.mark.parametrize("variable", ["I2V_POLL_DEADLINE_SECONDS", "I2V_PRESIGN_SECONDS", "I2V_LINK_SECONDS"])
def test_nothing_is_signed_for_longer_than_s3_allows(read: Read, variable: str) -> None:
    """What a presigned URL must last is at most 7 days, and the message says so."""
    assert read(**{variable: "604800"}).image_url_seconds <= 604_800
    with pytest.raises(UsageError, match=f"^{variable}: S3 signs URLs for at most 7 days; set 604800 or less"):
        read(**{variable: "604801"})
    with pytest.raises(UsageError, match=f"^{variable}: S3 signs URLs for at most 7 days"):
        read(**{variable: "1000000000000"})


def test_an_image_url_works_until_the_deadline(read: Read) -> None:
    """It works for I2V_PRESIGN_SECONDS, or until the deadline of the poll if that is later."""
    assert read(I2V_POLL_DEADLINE_SECONDS="604799.5").image_url_seconds == 604_800
    assert read(I2V_POLL_DEADLINE_SECONDS="60", I2V_PRESIGN_SECONDS="70").image_url_seconds == 70


@pytest.mark.parametrize(("lease", "start", "post"), [("300", 60, 120), ("10", 2, 4)])
def test_a_submit_ends_well_within_its_lease(read: Read, lease: str, start: float, post: float) -> None:
    """A POST starts within a fifth of the lease, and takes at most two fifths."""
    settings = read(I2V_LEASE_SECONDS=lease)
    assert (settings.claim_to_post_seconds, settings.post_seconds) == (start, post)


def test_a_lease_has_room_for_a_submit(read: Read) -> None:
    """A lease of under 10 s is refused, and the message says the limit."""
    with pytest.raises(UsageError, match=r"^I2V_LEASE_SECONDS: Input should be greater than or equal to 10"):
        read(I2V_LEASE_SECONDS="5")


def test_the_key_is_never_shown(read: Read) -> None:
    """The key is masked in text and in JSON."""
    settings = read(APIXO_API_KEY=SECRET)
    assert SECRET not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
    assert settings.require_key().get_secret_value() == SECRET


def test_a_missing_key_says_what_to_do(read: Read) -> None:
    """The message names the variable, and the demo that needs no key."""
    with pytest.raises(UsageError, match=r"APIXO_API_KEY is not set.*make demo"):
        read().require_key()


def test_a_missing_bucket_says_what_to_do(read: Read) -> None:
    """I2V_BUCKET is required unless each prefix names a bucket."""
    with pytest.raises(UsageError, match="I2V_BUCKET is not set"):
        read().require_bucket()
    own = read(I2V_IMAGES_PREFIX="s3://a-1/", I2V_VIDEOS_PREFIX="s3://b-1/", I2V_JOBS_PREFIX="s3://c-1/")
    own.require_bucket()
    assert own.jobs == S3Uri("c-1", "")


def test_a_prefix_is_in_the_bucket_unless_it_names_another(read: Read) -> None:
    """`s3://bucket/prefix/` overrides `I2V_BUCKET`."""
    settings = read(I2V_BUCKET="b-1", I2V_VIDEOS_PREFIX="s3://films/out/")
    assert (settings.images, settings.videos) == (S3Uri("b-1", "images/"), S3Uri("films", "out/"))


OVERLAPS: list[dict[str, Any]] = [
    {"I2V_VIDEOS_PREFIX": "images/"},
    {"I2V_VIDEOS_PREFIX": "images/videos/"},
    {"I2V_IMAGES_PREFIX": "videos/in/"},
    {"I2V_JOBS_PREFIX": "images/jobs/"},
    {"I2V_JOBS_PREFIX": "s3://b-1/videos/"},
    {"I2V_IMAGES_PREFIX": "s3://b-1/"},
    {"I2V_PUBLISH_AS": "images/out/{stem}.mp4"},
    {"I2V_PUBLISH_AS": "jobs/{stem}.mp4"},
    {"I2V_PUBLISH_AS": "s3://b-1/videos/{folder}{stem}.mp4"},
    {"I2V_PUBLISH_AS": "media/{folder}{stem}.mp4", "I2V_IMAGES_PREFIX": "media/in/"},
]


@pytest.mark.parametrize("prefixes", OVERLAPS, ids=str)
def test_no_prefix_contains_another(prefixes: dict[str, Any]) -> None:
    """Overlapping prefixes are a UsageError that names both, because the ledger would be listed as images."""
    with pytest.raises(UsageError, match=r"I2V_\w+=s3://b-1/\S* is inside I2V_\w+=s3://b-1/"):
        SealedSettings(I2V_BUCKET="b-1", **prefixes).require_bucket()


@pytest.mark.parametrize(
    "prefixes",
    [{"I2V_VIDEOS_PREFIX": "images-videos/"}, {"I2V_VIDEOS_PREFIX": "s3://b-2/images/"}, {"I2V_JOBS_PREFIX": "image/"}],
    ids=str,
)
def test_similar_prefixes_do_not_overlap(prefixes: dict[str, Any]) -> None:
    """A common start of the name, or the same name in another bucket, is accepted."""
    SealedSettings(I2V_BUCKET="b-1", **prefixes).require_bucket()


def test_a_prefix_leaves_room_for_the_keys_below_it(read: Read) -> None:
    """A prefix of more than 80 bytes is refused, because an S3 key has at most 1,024."""
    with pytest.raises(UsageError, match="I2V_VIDEOS_PREFIX"):
        read(I2V_BUCKET="b-1", I2V_VIDEOS_PREFIX="v" * 80 + "/")


@pytest.mark.parametrize(("size", "is_valid"), [(5 << 30, True), ((5 << 30) + 1, False)])
def test_a_video_fits_into_one_put(read: Read, size: int, is_valid: bool) -> None:
    """I2V_MAX_VIDEO_BYTES is at most 5 GiB, and the message says why."""
    message = "I2V_MAX_VIDEO_BYTES: S3 accepts at most 5 GiB in one PUT; set 5368709120 or less"
    with nullcontext() if is_valid else pytest.raises(UsageError, match=message):
        assert read(I2V_MAX_VIDEO_BYTES=str(size)).max_video_bytes == size


def test_a_price_can_be_overridden(read: Read) -> None:
    """I2V_PRICES_USD overrides a price by its name in the table."""
    settings = read(I2V_PRICES_USD='{"standard-6": 0.1}')
    assert settings.prices_usd == {"standard-6": Decimal("0.1")}
    assert set(PRICES_USD) == {"standard-6", "standard-10", "pro-6"}


def test_settings_cannot_be_changed(read: Read) -> None:
    """Settings are frozen."""
    with pytest.raises(ValueError, match="frozen"):
        read().__setattr__("bucket", "b-2")


def test_all_defaults_are_finite(read: Read) -> None:
    """No default is infinite or NaN."""
    assert all(math.isfinite(value) for value in read().model_dump().values() if isinstance(value, float))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{folder}{stem}.mp4", "must begin with its own folder"),
        ("published-{stem}.mp4", "must begin with its own folder"),
        ("s3://{stem}.mp4", "must begin with its own folder"),
        ("published/{stem}", "must end in .mp4"),
        ("published/{folder}{take}.mp4", "must have {stem} or a column"),
        ("published/{name}.mp4", "{name} is not a field; use {folder}, {stem}, {take}, {mode} or {extra.sku}"),
        ("published/{stem}{take:03}.mp4", "{take:03} is not a field"),
        ("published/{extra.a:b}.mp4", "{extra.a:b} is not a field"),
        ("published/{stem!r}.mp4", "{stem!r} is not a field"),
        ("published/{}.mp4", "{} is not a field"),
        ("published/{stem.mp4", "unmatched brace"),
        ("published//{stem}.mp4", "is not a prefix"),
    ],
)
def test_an_impossible_publish_template_is_refused(read: Read, template: str, message: str) -> None:
    """The error says what a template needs, before any name is made from it."""
    with pytest.raises(UsageError) as caught:
        read(I2V_BUCKET="b-1", I2V_PUBLISH_AS=template)
    assert "I2V_PUBLISH_AS" in caught.value.message
    assert message in caught.value.message


def test_published_names_have_a_folder_of_their_own(read: Read) -> None:
    """It is the literal start of the template, in the bucket or in another."""
    assert read(I2V_BUCKET="b-1", I2V_PUBLISH_AS="a/b-{{x/{stem}.mp4").published == S3Uri("b-1", "a/")
    assert read(I2V_BUCKET="b-1", I2V_PUBLISH_AS="s3://b-2/{stem}.mp4").published == S3Uri("b-2", "")
    assert SealedSettings(I2V_BUCKET="b-1").published is None
