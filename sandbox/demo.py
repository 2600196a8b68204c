"""`make demo`: upload the sample photographs to a bucket and watch them become videos, free of charge.

`sandbox.upload_watcher` prints each step. This module starts everything, then prints the bill and copies the videos.
`KEEP=1` keeps everything running.
"""

from __future__ import annotations

import os
import secrets
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from pathlib import Path
from types import FrameType

from rich.console import Console

from i2v.money import money_text
from sandbox.child_process import ROOT
from sandbox.full_stack import FullStack
from sandbox.provider import ProviderOptions
from sandbox.sandbox import Sandbox
from sandbox.upload_watcher import UploadWatcher

FOLDER = Path(".sandbox", "demo")
"""Where the videos are copied to, below the project's root."""
SAMPLES = ROOT / "samples"
TOO_SMALL = "cat-too-small"
"""The one that must be refused."""
RENDER_SECONDS = 4.0
BUCKET = "i2v-demo"
PROMPT = "Slow push in, natural light"
INTERRUPTED = 130
TITLE = "i2v: photographs land in a bucket, videos appear"
ABOUT = (
    "Nothing is paid here and no model is asked. The provider is a stand-in on this machine, as strict as the real "
    "one, and its videos are synthetic: a camera moves over the photograph. S3 and SQS are stand-ins too. The door, "
    f"Prefect, the worker and the flow are real. A video takes {RENDER_SECONDS:g} s here and 85 to 180 at the real "
    "provider; so it is asked for sooner, and more often (I2V_POLL_FIRST_SECONDS, I2V_POLL_EVERY_SECONDS).\n"
)


class Demo:
    """One showing: what is up, and where a person can look."""

    def __init__(self, pipeline: FullStack, token: str, console: Console) -> None:
        self.pipeline, self.box = pipeline, pipeline.box
        self.token = token
        self.console = console
        self.photographs = sorted(path for path in SAMPLES.iterdir() if path.suffix in {".jpg", ".png"})
        self.story = UploadWatcher(pipeline, self.photographs, console)

    def tell_places(self) -> None:
        """Say where all of it can be looked at."""
        door, server = self.pipeline.door_url, self.pipeline.server.url
        self.console.print(
            f"Prefect UI    {server}/runs\ngallery       {door}/gallery   token: {self.token}\n"
            f"bucket        s3://{BUCKET} at {self.box.aws.url}\n"
            f"journal       {self.box.provider.url}/_sandbox/journal\n",
            soft_wrap=True,
        )

    def act(self, about: str) -> bool:
        """Upload the photographs and tell what comes of it; whether it went well."""
        self.console.rule(f"[bold]{about}[/]", align="left")
        went_well = self.story.upload()
        self.console.print()
        return went_well

    def tell_bill(self, first_usd: Decimal) -> bool:
        """Say what the provider itself has written down, and whether the second upload was free."""
        provider = self.box.provider
        free = provider.billed_usd == first_usd
        self.console.rule("[bold]What the provider's own journal says[/]", align="left")
        self.console.print(
            f"First upload:  {provider.billed().total()} videos billed, ${money_text(first_usd)}\n"
            f"Second upload: ${money_text(provider.billed_usd - first_usd)}\n",
            style="" if free else "bold red",
        )
        return free

    def copy_videos(self, folder: Path) -> bool:
        """Bring the videos from the bucket into a folder below the project's root; whether all are there."""
        (ROOT / folder).mkdir(parents=True, exist_ok=True)
        videos = {Path(key).parent.stem: key for key in self.box.keys("videos/") if key.endswith(".mp4")}
        for name, key in videos.items():
            (ROOT / folder / f"{name}.mp4").write_bytes(self.box.read(key))
        self.console.rule("[bold]The videos, to be watched[/]", align="left")
        self.console.print(*(f"{folder}/{name}.mp4" for name in videos), "", sep="\n", soft_wrap=True)
        return set(videos) == {photograph.stem for photograph in self.photographs} - {TOO_SMALL}

    def tell_keep(self) -> None:
        """Say where everything is and how to play on."""
        exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in self.pipeline.own_env.items())
        self.console.rule("[bold]It stays up until Ctrl-C[/]", align="left")
        self.tell_places()
        self.console.print(
            "To play on, in another shell; what lands in the bucket becomes a video by itself, and `.venv/bin/i2v` "
            "sees the same bucket and ledger:\n",
            soft_wrap=True,
        )
        self.console.print(exports, markup=False, soft_wrap=True)


@contextmanager
def _world(console: Console) -> Iterator[Demo]:
    began, token = time.monotonic(), secrets.token_hex(8)
    with ExitStack() as stack:
        with console.status("Starting the sandbox") as status:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="i2v-demo-", ignore_cleanup_errors=True))
            dials = ProviderOptions(render_seconds=RENDER_SECONDS)
            box = stack.enter_context(Sandbox(dials, bucket=BUCKET, notifications=True))
            more = {"I2V_DEFAULT_PROMPT": PROMPT, "I2V_GALLERY_TOKEN": token}
            pipeline = stack.enter_context(FullStack(box, Path(folder), more, status.update))
        console.print(f"Sandbox, Prefect server, worker and door are up, after {time.monotonic() - began:.0f} s.")
        console.print(f"make deploy: {pipeline.deployed.splitlines()[-1]}.\n", markup=False, soft_wrap=True)
        try:
            yield Demo(pipeline, token, console)
        finally:
            console.print("Ending all of it.")


def show(console: Console, *, keep: bool, folder: Path) -> int:
    """Show all of it, and give the exit code; kept up, it waits for Ctrl-C in the end."""
    console.print(f"[bold]{TITLE}[/]\n\n{ABOUT}")
    with _world(console) as demo:
        demo.tell_places()
        first = demo.act("The photographs are uploaded, and nothing else is done")
        first_usd = demo.box.provider.billed_usd
        second = demo.act("The same again: nothing is paid twice")
        free = demo.tell_bill(first_usd)
        all_there = demo.copy_videos(folder)
        if keep:
            demo.tell_keep()
            signal.pause()
    console.print("It is down again. To look at it, the gallery too: KEEP=1 make demo")
    return 0 if first and second and free and all_there else 1


def _end(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


def main() -> int:
    """Run the demo; 0 where all went as it should, 1 where not, and 130 after Ctrl-C."""
    console = Console(highlight=False)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell's `&` had it ignored
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    try:
        return show(console, keep=bool(os.environ.get("KEEP")), folder=FOLDER)
    except (OSError, RuntimeError) as error:
        console.print(f"The demo did not come to its end: {error}", style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("Stopped: all of it is down.")
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
