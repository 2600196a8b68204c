"""The arguments of the `i2v run` that processes one image again, as reports advise it."""

from decimal import Decimal

from i2v.advised_commands import EXAMPLE_PROMPT, run_arguments
from i2v.inputs.prompts import PromptSource, RequestOptions, RunOptions
from i2v.inputs.sources import InputItem
from i2v.pipeline.context import RunContext
from i2v.pricing import price_usd
from i2v.request import Request

RUN_SOURCES = frozenset({PromptSource.FLAG, PromptSource.PREFIX, PromptSource.DEFAULT})
"""Of prompts that an image without its own gets; any other must override the image's own to be the same again."""


def with_request(run: RunContext, item: InputItem, request: Request, source: PromptSource | None) -> str:
    """Return the arguments for the same request; the limit is the run's, but at least the price."""
    limit = run.max_spend_usd
    if limit is not None:
        limit = max(limit, price_usd(request.mode, request.duration, run.settings.prices_usd))
    options = RunOptions(
        **{**request.model_dump(), "prompt": request.prompt.replace("{", "{{").replace("}", "}}")},
        override_prompts=source not in RUN_SOURCES,
    )
    return _arguments(run, item, options, limit)


def with_options(run: RunContext, item: InputItem, default: RequestOptions) -> str:
    """Return the arguments for the options that this run has, for an image that got no request."""
    own = item.options.over(default)
    overrides = bool(item.options.prompt) or (isinstance(default, RunOptions) and default.override_prompts)
    return _arguments(run, item, RunOptions(**dict(own), override_prompts=overrides), run.max_spend_usd)


def with_example_prompt(run: RunContext, item: InputItem) -> str:
    """Return arguments with a prompt that is valid, and that replaces the image's own."""
    return _arguments(run, item, RunOptions(prompt=EXAMPLE_PROMPT, override_prompts=True), run.max_spend_usd)


def _arguments(run: RunContext, item: InputItem, options: RunOptions, limit: Decimal | None) -> str:
    """Return the quoted arguments; none for a URL with a query, which reports must not show."""
    ref = item.ref
    if ref.url is not None and ref.url != ref.label:
        return ""
    return run_arguments(
        ref.label,
        prompt=options.prompt,
        override_prompts=options.override_prompts,
        mode=options.mode,
        duration=options.duration,
        take=options.take,
        label=run.label,
        max_spend_usd=limit,
    )
