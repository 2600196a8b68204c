"""What several commands take: arguments and options with their help, and what they mean to the library."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from i2v.inputs.prompts import RequestOptions
    from i2v.settings import Settings

MOST_USD = 1_000_000
"""More than anybody means."""


class Mode(StrEnum):
    """`i2v.request.Mode`, named again since that import takes longer than `--help` may."""

    STANDARD = "standard"
    PRO = "pro"


class Seconds(StrEnum):
    """The lengths that the provider makes."""

    SIX = "6"
    TEN = "10"


def dollars(text: str) -> Decimal:
    """Read an amount of US dollars.

    Raises:
        typer.BadParameter: it is none.
    """
    try:
        amount = Decimal(text.strip().removeprefix("$"))
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite() or not 0 <= amount <= MOST_USD:
        raise typer.BadParameter(f"{text!r} is no amount of US dollars; it looks like 5 or 0.50")
    return amount


Images = Annotated[
    list[str],
    typer.Argument(
        metavar="IMAGES…",
        show_default=False,
        help="s3://bucket/key, s3://bucket/prefix/ (all images under it), https URLs, manifests (.csv or .jsonl with "
        "the columns image, prompt, mode, duration, take), local files and local folders.",
    ),
]
Prompt = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        help="What shall happen, for images that bring no prompt of their own (manifest, metadata, tom.jpg.txt beside "
        "it). Knows {stem}, {key} and {folder} of the image.",
        show_default="I2V_DEFAULT_PROMPT",
    ),
]
ModeOption = Annotated[Mode, typer.Option("--mode", help="standard is 768p of 6 or 10 s, pro is 1080p and always 6 s.")]
Duration = Annotated[Seconds, typer.Option(help="Seconds of video in standard.")]
Take = Annotated[int, typer.Option(min=1, metavar="N", help="Above 1: another video of the same, paid once more.")]
MaxSpend = Annotated[
    Decimal | None,
    typer.Option(metavar="USD", parser=dollars, show_default="no limit", help="The most that this run may spend."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and everything else on stderr.")]


def asked(prompt: str | None, mode: Mode, duration: Seconds, take: int, settings: Settings) -> RequestOptions:
    """What was typed, as the library takes it.

    Raises:
        UsageError: the prompt that was typed or set has an unknown field.
    """
    from i2v.inputs.prompts import RequestOptions, check_templates

    check_templates(prompt, settings)
    return RequestOptions.model_validate({"prompt": prompt, "mode": mode, "duration": duration, "take": take})
