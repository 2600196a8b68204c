"""`i2v run`, and `i2v estimate`, which is its dry run. What they do is in `run_or_preview`."""

import asyncio
import os
import sys
from contextlib import nullcontext
from dataclasses import replace
from typing import Annotated, Literal

import typer

from i2v.advised_commands import program
from i2v.cli import options

EPILOG = f"""
What it costs: standard $0.192 for 6 s and $0.320 for 10 s, pro $0.33. Existing videos and refused images cost \
nothing. Try --dry-run first.

\b
Examples:
{program()} run s3://bucket/images/ --prompt "slow push in" --max-spend 5
{program()} run photos/ --prompt "a breeze moves {{stem}}" --dry-run
{program()} run batch.csv --json > report.json

{options.EXIT_CODES}
"""


def run(  # noqa: PLR0913 - a command's parameters are its options
    context: typer.Context,
    images: options.Images,
    *,
    prompt: options.Prompt = None,
    mode: options.ModeOption = "standard",
    duration: options.Duration = "6",
    take: options.Take = 1,
    override_prompts: options.OverridePrompts = False,
    max_spend: options.MaxSpend = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Spend up to the limit, even if that is not enough for all images.")
    ] = False,
    delivery: Annotated[
        Literal["poll", "callback"],
        typer.Option(help="poll: wait for the videos; callback: exit after submitting, the provider calls the door."),
    ] = "poll",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Validate and price the images; no charges, no uploads.")
    ] = False,
    label: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Purpose of the run, for the ledger and the manifests.")
    ] = None,
    skip_bad_rows: options.SkipBadRows = False,
    batch: Annotated[
        bool,
        typer.Option(
            "--batch",
            help="For thousands of images: run them in parts on the workers of your Prefect server, and wait.",
        ),
    ] = False,
    as_json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """Generate a video from each image and store it in the bucket. No video is charged twice.

    Local files are uploaded under the images prefix first; existing objects are
    never overwritten.

    Without PREFECT_API_URL, Prefect runs inside this command; with it, the run
    appears in your Prefect UI. Ctrl-C stops cleanly and lists the open jobs.
    """
    from i2v.cli.prefect.embedded_server import EmbeddedServer

    needs_server = not dry_run and not batch and not os.environ.get("PREFECT_API_URL")
    with EmbeddedServer() if needs_server else nullcontext() as embedded:  # it starts while the rest is imported
        from i2v.cli.run_or_preview import bad_rows_in_json, finish, preview_or_run
        from i2v.pipeline.preflight import check_delivery
        from i2v.settings import read_settings

        settings = read_settings()
        settings.require_bucket()
        asyncio.run(check_delivery(delivery, settings))
        if not dry_run and not settings.key_block:
            settings.require_key()
        default = options.run_options(
            settings, prompt=prompt, mode=mode, duration=duration, take=take, override_prompts=override_prompts
        )
        parameters = {"max_spend_usd": max_spend, "partial": partial, "delivery": delivery, "label": label}
        parameters["skip_bad_rows"] = skip_bad_rows
        with bad_rows_in_json(as_json=as_json):
            ending = preview_or_run(
                images,
                default,
                settings,
                parameters,
                dry_run=dry_run,
                verbose=verbose,
                batch=batch,
                embedded=embedded,
            )
            ending = replace(ending, report=ending.report.with_typed(options.typed_options(context)))
            sys.exit(finish(ending, settings, dry_run=dry_run, as_json=as_json))


def estimate(  # noqa: PLR0913 - a command's parameters are its options
    context: typer.Context,
    images: options.Images,
    *,
    prompt: options.Prompt = None,
    mode: options.ModeOption = "standard",
    duration: options.Duration = "6",
    take: options.Take = 1,
    override_prompts: options.OverridePrompts = False,
    skip_bad_rows: options.SkipBadRows = False,
    as_json: options.Json = False,
) -> None:
    """Validate images and print what their videos would cost. No charges, no uploads, no API key needed.

    Existing videos cost nothing. Exit codes: 0 done; 2 wrong usage or settings; 3 no valid image.
    """
    run(
        context,
        images,
        prompt=prompt,
        mode=mode,
        duration=duration,
        take=take,
        override_prompts=override_prompts,
        dry_run=True,
        skip_bad_rows=skip_bad_rows,
        as_json=as_json,
    )
