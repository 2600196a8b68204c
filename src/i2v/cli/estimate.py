"""`i2v estimate`: `i2v run --dry-run`, with only the options that matter for it."""

from __future__ import annotations

from i2v.cli import options
from i2v.cli.run import run


def estimate(
    images: options.Images,
    *,
    prompt: options.Prompt = None,
    mode: options.ModeOption = "standard",
    duration: options.Duration = "6",
    take: options.Take = 1,
    as_json: options.Json = False,
) -> None:
    """Validate images and print what their videos would cost. No charges, no uploads, no API key needed.

    Existing videos cost nothing. Exit codes: 0; 2 wrong usage or settings; 3 no valid image.
    """
    run(images, prompt=prompt, mode=mode, duration=duration, take=take, dry_run=True, as_json=as_json)
