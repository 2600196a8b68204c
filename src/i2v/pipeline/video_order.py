"""An order: one valid image with its priced request. `i2v.pipeline.submit` may pay for it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from i2v.errors import Refused, UsageError
from i2v.inputs.prompts import PromptSource, build_request
from i2v.ledger.attempt import Delivery
from i2v.ledger.job import JobImage, JobRecord, JobState
from i2v.logs import log_context
from i2v.pipeline.context import RunContext
from i2v.pipeline.validate import ResolvedImage, ValidationResult
from i2v.pricing import price_usd
from i2v.request import Request


@dataclass(frozen=True, slots=True)
class Order:
    """What may become a job."""

    image: JobImage
    request: Request
    price_usd: Decimal
    label: str | None = None
    delivery: Delivery = "poll"
    read_at: datetime | None = None
    """When the image was read for its validation, by this host's clock."""
    prompt_source: PromptSource | None = None
    """Where the prompt is from; `None` if that is not known, as for a job of an earlier run."""
    again: str = ""
    """The arguments of the command that runs this image again."""
    overridden: tuple[str, ...] = ()
    """The names of the run's options that the image's own replace."""
    extra: Mapping[str, str] = field(default_factory=dict)
    """The image's custom columns."""
    needs_copy: bool = False
    """Whether the provider gets a copy: the key or the stored headers would mislead an HTTP client."""

    by_name: bool = False
    """Whether a person named this image, so it gets a video even if it was erased."""

    @property
    def key(self) -> str:
        """The job key."""
        return self.request.job_key(self.image.facts.sha256)

    def may_pay(self, record: JobRecord) -> bool:
        """Return whether it may pay for its job: the job is ready, or erased and its image is named again."""
        return record.state is JobState.READY or (record.state is JobState.FORGOTTEN and self.by_name)

    @property
    def log_name(self) -> str:
        """Image and job, as log lines name them."""
        return f"{self.image.name} (job {self.key[:12]})"

    def log_context(self, task_id: str | None = None) -> dict[str, str | None]:
        """Return the `extra` of a log line about this order."""
        return log_context(self.image.label, self.key, task_id)


def make_request(image: ResolvedImage) -> Request:
    """Return the request for this image. Raise `Refused` if its prompt is missing or too long."""
    try:
        return build_request(image.options, image.ref)
    except UsageError as error:
        raise Refused(error.message, error.hint, "request") from None


def make_order(run: RunContext, image: ResolvedImage, validation: ValidationResult, request: Request) -> Order:
    """Return the order for a valid image, priced by the settings."""
    assert validation.facts is not None  # noqa: S101 - for the type checker: refused images do not get here
    job_image = JobImage(
        label=image.ref.label,
        name=image.name,
        at=validation.at,
        etag=validation.etag,
        version_id=image.version_id,
        facts=validation.facts,
    )
    price = price_usd(request.mode, request.duration, run.settings.prices_usd)
    return Order(
        image=job_image,
        request=request,
        price_usd=price,
        label=run.label,
        read_at=validation.read_at,
        prompt_source=image.options.prompt_source or PromptSource.COLUMN,
        extra=dict(image.options.extra),
        needs_copy=validation.needs_copy,
    )
