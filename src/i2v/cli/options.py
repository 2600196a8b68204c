"""Arguments and options that several commands share, with their help and their parsing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from i2v.errors import ExitCode

if TYPE_CHECKING:
    from i2v.inputs.prompts import RunOptions
    from i2v.settings import Settings

EXIT_CODES = "Exit codes: " + "; ".join(f"{code} {code.meaning}" for code in ExitCode) + "."
MAX_USD = 1_000_000
"""A higher amount is a typing error."""
Mode = Literal["standard", "pro"]
Seconds = Literal["6", "10"]
State = Literal["ready", "claimed", "submitted", "stored", "refused", "failed", "unknown", "forgotten"]
"""The values of the library's `Mode`, `Duration` and `JobState`, which are too slow to import for `--help`."""
UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def dollars(text: str) -> Decimal:
    """Parse an amount of US dollars."""
    try:
        amount = Decimal(text.strip().removeprefix("$"))
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite() or not 0 <= amount <= MAX_USD:
        raise typer.BadParameter(f"{text!r} is not an amount in US dollars; use e.g. 5 or 0.50")
    return amount


def moment(text: str) -> datetime:
    """Parse `2d` or `12h` (ago), or an ISO date or time, in UTC if it names no time zone."""
    number, unit = text.strip()[:-1], text.strip()[-1:]
    try:
        if unit in UNITS:
            return datetime.now(UTC) - timedelta(**{UNITS[unit]: float(number)})
        found = datetime.fromisoformat(text.strip())
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{text!r} is not a time; use e.g. 2d, 12h or 2026-11-22") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


Images = Annotated[
    list[str],
    typer.Argument(
        metavar="IMAGES",
        show_default=False,
        help="s3://bucket/key, s3://bucket/prefix/ (all images under it), https URLs, batch files (.csv or .jsonl with "
        "the columns image, prompt, mode, duration, take and your own), local files and folders.",
    ),
]
Prompt = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        help="Default prompt, for images without their own (in a batch file, object metadata, or a file tom.jpg.txt "
        "next to tom.jpg). {stem}, {key} and {folder} stand for those of the image.",
        show_default="I2V_DEFAULT_PROMPT",
    ),
]
ModeOption = Annotated[Mode, typer.Option("--mode", help="standard: 768p, 6 or 10 s; pro: 1080p, always 6 s.")]
Duration = Annotated[Seconds, typer.Option(help="Seconds of video in standard mode.")]
OverridePrompts = Annotated[
    bool,
    typer.Option(
        "--override-prompts",
        help="Use --prompt, --mode, --duration and --take even for images with options of their own in object metadata "
        "or a prompt file. Rows of a batch file keep theirs.",
    ),
]
SkipBadRows = Annotated[
    bool,
    typer.Option(
        "--skip-bad-rows", help="Go on without the rows of a batch file that cannot be used; the report names them."
    ),
]
Take = Annotated[int, typer.Option(min=1, metavar="N", help="2 or more: another version of the video, charged again.")]
MaxSpend = Annotated[
    Decimal | None,
    typer.Option(metavar="USD", parser=dollars, show_default="no limit", help="Spending limit of this run."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, everything else on stderr.")]
Since = Annotated[
    datetime | None,
    typer.Option(
        metavar="D",
        parser=moment,
        show_default=False,
        help="Skip anything older than 2d, 12h, or a date such as 2026-11-22 (UTC).",
    ),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show the logs of Prefect and of each step.")]


def typed_options(context: typer.Context) -> dict[str, object]:
    """Return those of mode, duration and take that were typed, even if they equal the default."""
    typed = {name: context.params[name] for name in ("mode", "duration", "take") if _is_typed(context, name)}
    return {name: int(value) if name == "duration" else value for name, value in typed.items()}


def _is_typed(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def run_options(settings: Settings, **given: object) -> RunOptions:
    """Return the options for the library; raise `UsageError` if they contradict each other, or for an unknown field."""
    from i2v.inputs.prompts import RunOptions, check_options

    options = RunOptions.model_validate(given)
    check_options(options, settings)
    return options
