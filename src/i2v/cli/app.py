"""The typer app: the list of commands, in the order of `i2v --help`."""

import sys
from typing import Annotated

import typer

from i2v.cli import jobs
from i2v.cli.doctor import doctor
from i2v.cli.export import EPILOG as EXPORT_EPILOG
from i2v.cli.export import export
from i2v.cli.forget import EPILOG as FORGET_EPILOG
from i2v.cli.forget import forget
from i2v.cli.reconcile import EPILOG as RECONCILE_EPILOG
from i2v.cli.reconcile import reconcile
from i2v.cli.resolve import resolve
from i2v.cli.run import EPILOG, estimate, run
from i2v.cli.spending import limits, pause, resume

app = typer.Typer(
    name="i2v",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # a table would leave the help texts too narrow a column
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Settings are environment variables: APIXO_API_KEY, I2V_BUCKET, AWS_PROFILE, AWS_ENDPOINT_URL, … and, for "
    "your own Prefect server, PREFECT_API_URL. See docs/settings.md.",
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
    """Turn images in a bucket into short videos. Each video is charged once and stored in the bucket.

    Start with `i2v doctor`, check the cost with `i2v estimate`, then `i2v run`.
    """


app.command(epilog=EPILOG)(run)
app.command()(estimate)
app.command()(doctor)
jobs.app.command()(resolve)
app.add_typer(jobs.app, name="jobs")
app.command(epilog=RECONCILE_EPILOG)(reconcile)
app.command()(limits)
app.command(epilog=EXPORT_EPILOG)(export)
app.command(epilog=FORGET_EPILOG)(forget)
app.command()(pause)
app.command()(resume)
