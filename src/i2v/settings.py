"""The environment variables of i2v: `Settings`, read when first needed.

Add a variable here and to `docs/settings.md`. boto3 reads the AWS variables; nothing here writes `os.environ`.
"""

import json
import math
from decimal import Decimal
from functools import cached_property
from itertools import permutations
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from i2v.errors import UsageError
from i2v.pricing import PRICES_USD
from i2v.publish_template import published_folder
from i2v.s3_uri import S3Uri
from i2v.settings_types import (
    ApiUrl,
    HostName,
    HttpAddress,
    LeaseSeconds,
    Prefix,
    PublishTemplate,
    Seconds,
    Signable,
    SignableSeconds,
    Token,
    at_most,
    is_listed,
    unique_keys,
)
from i2v.spending_limits import Limit, LimitsByLabel, RunLimits, all_limits, check_limits

_JSON_EXAMPLES = {
    "prompts_by_prefix": '{"cats/": "the cat yawns"}',
    "prices_usd": '{"standard-6": "0.192"}',
    "limits": '{"*": {"day": 100, "month": 2000}, "team-a": {"month": 300}}',
    "s3_extra_args": '{"ServerSideEncryption": "aws:kms"}',
}


class Settings(BaseSettings):
    """Everything that i2v reads from the environment. Times are in seconds, money in US dollars."""

    model_config = SettingsConfigDict(
        frozen=True, extra="ignore", env_ignore_empty=True, populate_by_name=True, hide_input_in_errors=True
    )

    api_key: SecretStr | None = Field(default=None, validation_alias="APIXO_API_KEY")
    base_url: ApiUrl = Field(default="https://api.apixo.ai/api/v1", validation_alias="APIXO_BASE_URL")
    provider_route: str | None = Field(default=None, validation_alias="APIXO_PROVIDER")
    """The `provider` field of a submit (auto, value, official); not sent if None."""

    bucket: str | None = Field(default=None, validation_alias="I2V_BUCKET")
    images_prefix: Prefix = Field(default="images/", validation_alias="I2V_IMAGES_PREFIX")
    videos_prefix: Prefix = Field(default="videos/", validation_alias="I2V_VIDEOS_PREFIX")
    jobs_prefix: Prefix = Field(default="jobs/", validation_alias="I2V_JOBS_PREFIX")

    publish_as: PublishTemplate | None = Field(default=None, validation_alias="I2V_PUBLISH_AS")
    """The name under which each stored video is copied, such as `published/{folder}{stem}.mp4`."""

    s3_extra_args: Annotated[dict[str, Any], NoDecode] = Field(
        default_factory=dict, validation_alias="I2V_S3_EXTRA_ARGS"
    )
    """Arguments of boto3 that are added to each put and copy, as JSON; `i2v.s3.extra_args` checks them."""

    poll_first_seconds: Seconds = Field(default=30, validation_alias="I2V_POLL_FIRST_SECONDS")
    poll_every_seconds: Seconds = Field(default=10, validation_alias="I2V_POLL_EVERY_SECONDS")
    poll_deadline_seconds: SignableSeconds = Field(default=1800, validation_alias="I2V_POLL_DEADLINE_SECONDS")
    """The image's presigned URL works as long."""
    lease_seconds: LeaseSeconds = Field(default=300, validation_alias="I2V_LEASE_SECONDS")
    run_gone_seconds: Seconds = Field(default=180, validation_alias="I2V_RUN_GONE_SECONDS")
    """A run whose record has not been updated for this long is considered dead; reconcile takes over its jobs."""
    settling_seconds: float = Field(default=120, validation_alias="I2V_SETTLING_SECONDS")
    """Reconcile skips newer images: a prompt file may still be uploaded, or the event may be on its way."""
    presign_seconds: Annotated[int, Signable] = Field(default=7200, gt=0, validation_alias="I2V_PRESIGN_SECONDS")
    """The least lifetime of image URLs; see `image_url_seconds`."""
    link_seconds: Annotated[int, Signable] = Field(default=86_400, ge=0, validation_alias="I2V_LINK_SECONDS")
    """How long links to posters, videos and charts in Prefect artifacts work; 0 leaves them out."""
    submit_patience_seconds: Seconds = Field(default=600, validation_alias="I2V_SUBMIT_PATIENCE_SECONDS")
    """How long a submit that was not charged (429, no connection) is retried before the job is released."""
    max_in_flight: int = Field(default=1000, gt=0, validation_alias="I2V_MAX_IN_FLIGHT")
    max_connections: int = Field(default=24, gt=0, validation_alias="I2V_MAX_CONNECTIONS")
    """Connections to the provider, and so the number of concurrent requests."""
    max_attempts: int = Field(default=2, gt=0, validation_alias="I2V_MAX_ATTEMPTS")
    """Paid attempts of a job, over all runs."""
    first_submits: int = Field(default=8, ge=0, validation_alias="I2V_FIRST_SUBMITS")
    """Submits to a bucket that the provider has not yet fetched from, until one is rendered; 0 sets no limit."""
    max_video_bytes: Annotated[int, at_most(5 << 30, "S3 accepts at most 5 GiB in one PUT")] = Field(
        default=1 << 30, gt=0, validation_alias="I2V_MAX_VIDEO_BYTES"
    )

    daily_cap_usd: Decimal | None = Field(default=None, ge=0, validation_alias="I2V_DAILY_CAP_USD")
    limits: Annotated[LimitsByLabel, NoDecode] = Field(default_factory=dict, validation_alias="I2V_LIMITS")
    """What runs may spend by label and period, as JSON; see `spending_limits`."""
    prices_usd: Annotated[dict[str, Decimal], NoDecode] = Field(default_factory=dict, validation_alias="I2V_PRICES_USD")
    """Prices that override `PRICES_USD`, as JSON: {"standard-6": "0.192"}."""
    account_label: str = Field(default="default", validation_alias="I2V_ACCOUNT_LABEL")
    """The provider account's name in the ledger; a ledger serves one account."""

    private_hosts: Annotated[frozenset[HostName], NoDecode] = Field(
        default=frozenset(), validation_alias="I2V_PRIVATE_HOSTS"
    )
    """`host` or `host:port` that may be fetched even if private or not https."""
    default_prompt: str | None = Field(default=None, validation_alias="I2V_DEFAULT_PROMPT")
    prompts_by_prefix: Annotated[dict[str, str], NoDecode] = Field(
        default_factory=dict, validation_alias="I2V_PROMPTS_BY_PREFIX"
    )
    """Prompts by key prefix below the images prefix, as JSON; the longest match overrides `default_prompt`."""

    key_block: str | None = Field(default=None, validation_alias="I2V_APIXO_KEY_BLOCK")
    """The Prefect block with the provider's key; loaded inside a run, where it overrides `api_key`."""
    aws_block: str | None = Field(default=None, validation_alias="I2V_AWS_CREDENTIALS_BLOCK")
    """The Prefect block with the credentials for S3, instead of boto3's default chain."""

    callback_base_url: HttpAddress | None = Field(default=None, validation_alias="I2V_CALLBACK_BASE_URL")
    """The URL at which the provider reaches the doors: public https, or a host in `private_hosts`."""
    callback_secrets: Annotated[tuple[Token, ...], NoDecode] = Field(default=(), validation_alias="I2V_CALLBACK_SECRET")
    """The first signs, all verify, so that a secret can be rotated while callbacks are pending."""
    callback_patience_seconds: Seconds = Field(default=600, validation_alias="I2V_CALLBACK_PATIENCE_SECONDS")
    """How long after its submit a job waits for its callback before reconcile polls it."""

    sqs_queue_url: HttpAddress | None = Field(default=None, validation_alias="I2V_SQS_QUEUE_URL")
    door_token: Token | None = Field(default=None, validation_alias="I2V_DOOR_TOKEN")
    door_host: str = Field(default="127.0.0.1", validation_alias="I2V_DOOR_HOST")
    door_port: int = Field(default=8410, ge=0, le=65_535, validation_alias="I2V_DOOR_PORT")
    """0 picks a free port."""
    gallery_token: Token | None = Field(default=None, validation_alias="I2V_GALLERY_TOKEN")
    """The token for the gallery; without it the gallery is off."""

    log_format: Literal["text", "json"] = Field(default="text", validation_alias="I2V_LOG_FORMAT")

    @field_validator("private_hosts", "callback_secrets", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator(*_JSON_EXAMPLES, mode="before")
    @classmethod
    def _read_json(cls, value: object, info: ValidationInfo) -> object:
        example = _JSON_EXAMPLES[info.field_name or ""]
        try:
            read = value
            if isinstance(value, str):
                read = json.loads(value, parse_float=Decimal, object_pairs_hook=unique_keys)
        except ValueError as error:
            why = "not valid JSON" if isinstance(error, json.JSONDecodeError) else str(error)
            raise ValueError(f"{why}; use e.g. {example}") from None
        if not isinstance(read, dict):
            raise ValueError(f"not a JSON object; use e.g. {example}")  # noqa: TRY004 - pydantic reports a ValueError
        if info.field_name == "limits":
            check_limits(read)
        return read

    @field_validator("prices_usd")
    @classmethod
    def _known_prices(cls, prices: dict[str, Decimal]) -> dict[str, Decimal]:
        for name, price in prices.items():
            if name not in PRICES_USD:
                raise ValueError(f"{name!r} is not a price; use one of {', '.join(PRICES_USD)}")
            if not price.is_finite() or price < 0:
                raise ValueError(f"{name} must be 0 or more US dollars")
        return prices

    @model_validator(mode="after")
    def _key_is_sent_encrypted(self) -> Self:
        url = urlsplit(self.base_url)
        if url.scheme != "https" and not is_listed(self.private_hosts, url.hostname or "", url.port or 80):
            raise ValueError(
                "APIXO_BASE_URL: it must begin with https://, because each request carries the key; only a host in"
                " I2V_PRIVATE_HOSTS may use http://"
            )
        return self

    @cached_property
    def images(self) -> S3Uri:
        """The images prefix."""
        return self._uri(self.images_prefix)

    @cached_property
    def videos(self) -> S3Uri:
        """The videos prefix."""
        return self._uri(self.videos_prefix)

    @cached_property
    def jobs(self) -> S3Uri:
        """The ledger's prefix."""
        return self._uri(self.jobs_prefix)

    @cached_property
    def published(self) -> S3Uri | None:
        """The folder of published copies, if there are any."""
        return self._uri(published_folder(self.publish_as)) if self.publish_as else None

    def _uri(self, prefix: str) -> S3Uri:
        if prefix.startswith("s3://"):
            return S3Uri.parse(prefix)
        if not self.bucket:
            raise UsageError("I2V_BUCKET is not set", "Set it to the bucket that holds the images: export I2V_BUCKET=…")
        return S3Uri(self.bucket, prefix)

    @property
    def spending_limits(self) -> tuple[Limit, ...]:
        """The limits of `limits` and `daily_cap_usd`."""
        return all_limits(self.limits, self.daily_cap_usd)

    def limits_of(self, label: str | None) -> RunLimits:
        """Return the limits of a run with this label."""
        return RunLimits(label or "", tuple(limit for limit in self.spending_limits if limit.covers(label or "")))

    @property
    def image_url_seconds(self) -> int:
        """The lifetime of the URL from which the provider fetches an image."""
        return max(self.presign_seconds, math.ceil(self.poll_deadline_seconds))

    @property
    def claim_to_post_seconds(self) -> float:
        """The longest time from the first check of a payment to the first byte of its POST: a fifth of the lease."""
        return self.lease_seconds / 5

    @property
    def post_seconds(self) -> float:
        """The time limit of a POST: two fifths of the lease."""
        return self.lease_seconds * 2 / 5

    def require_bucket(self) -> None:
        """Raise UsageError if the bucket is not set, or if a prefix or I2V_PUBLISH_AS's folder contains another."""
        uris = {"I2V_IMAGES_PREFIX": self.images, "I2V_VIDEOS_PREFIX": self.videos, "I2V_JOBS_PREFIX": self.jobs}
        uris |= {"I2V_PUBLISH_AS": self.published} if self.published else {}
        for (name, outer), (other, inner) in permutations(uris.items(), 2):
            if outer.holds(inner):
                raise UsageError(f"{other}={inner} is inside {name}={outer}", "Use prefixes that do not overlap")

    def require_key(self) -> SecretStr:
        """Return the provider's key, or raise UsageError if it is not set."""
        if self.api_key is None:
            raise UsageError("APIXO_API_KEY is not set", "Set it to your key, or try i2v for free with: make demo")
        return self.api_key


def read_settings() -> Settings:
    """Read the environment; raise UsageError, which names the variable and not its value, if one is invalid."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        parts = (".".join(str(part) for part in first["loc"]), first["msg"].removeprefix("Value error, "))
        raise UsageError(": ".join(filter(None, parts)), "See docs/settings.md") from None
