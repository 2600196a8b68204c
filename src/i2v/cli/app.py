"""The typer app: which commands there are, in the order in which one needs them."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from i2v.cli import jobs
from i2v.cli.doctor import doctor
from i2v.cli.estimate import estimate
from i2v.cli.pause import pause, resume
from i2v.cli.reconcile import reconcile
from i2v.cli.resolve import resolve
from i2v.cli.run import EPILOG, run

app = typer.Typer(
    name="i2v",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Settings come from the environment: [bold]APIXO_API_KEY[/], [bold]I2V_BUCKET[/], AWS's own (AWS_PROFILE, "
    "AWS_ENDPOINT_URL, …), and for your own Prefect server [bold]PREFECT_API_URL[/]. docs/settings.md lists them all.",
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        sys.stdout.write(f"i2v {version('i2v')}\n")
        raise typer.Exit


@app.callback()
def i2v(
    *, _version: Annotated[bool, typer.Option("--version", callback=_version, help="Print the version.")] = False
) -> None:
    """Turn images into short videos: each is paid once, and the video lies beside the image in your bucket.

    Start with [bold]i2v doctor[/], see what it would cost with [bold]i2v estimate[/], then [bold]i2v run[/].
    """


app.command(epilog=EPILOG)(run)
app.command()(estimate)
app.command()(doctor)
jobs.app.command()(resolve)
app.add_typer(jobs.app, name="jobs")
app.command()(reconcile)
app.command()(pause)
app.command()(resume)
