"""`make demo`: upload the sample photographs to a bucket and watch them become videos, free of charge.

`sandbox.demo_upload` prints each step. This module starts everything, prints the bill and copies the videos.
`KEEP=1` keeps everything running.
"""

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

from rich.console import Console

from i2v.advised_commands import program
from i2v.money import money_text
from sandbox.child_process import ROOT
from sandbox.demo_upload import DemoUpload
from sandbox.full_stack import FullStack
from sandbox.provider import ProviderOptions
from sandbox.sandbox import Sandbox

FOLDER = Path(".sandbox", "demo")
"""Where the videos are copied to, relative to the project's root."""
ENVIRONMENT = FOLDER / "env.sh"
"""The variables with which other commands use the running demo."""
SAMPLES = ROOT / "samples"
TOO_SMALL = "cat-too-small"
"""The image that is rejected on purpose."""
RENDER_SECONDS = 4.0
BUCKET = "i2v-demo"
PROMPT = "Slow push in, natural light"
INTERRUPTED = 130
TITLE = "i2v: upload images to a bucket, get videos"
ABOUT = (
    "No charges, no model calls. The provider is an emulator on this machine, as strict as the real one, and "
    "its videos are synthetic: a camera moves over the photograph. S3 and SQS are emulated too. The door, "
    f"Prefect, the worker and the flow are real. A video takes {RENDER_SECONDS:g} s here and 85 to 180 s at the real "
    "provider, so polling starts sooner (I2V_POLL_FIRST_SECONDS, I2V_POLL_EVERY_SECONDS).\n"
)
UPLOAD_YOUR_OWN = f"""\
To upload a photograph of your own, open another terminal in this folder:

. {ENVIRONMENT}
curl -T PHOTO.jpg "$AWS_ENDPOINT_URL/{BUCKET}/images/"

The door starts a run for it, and its video appears in the gallery. Commands work too:

{program()} run PHOTO.jpg --prompt "a breeze moves the leaves"
{program()} jobs
"""


class Demo:
    """The parts of the demo, on a running stack."""

    def __init__(self, stack: FullStack, token: str, console: Console) -> None:
        self.stack, self.sandbox = stack, stack.sandbox
        self.token = token
        self.console = console
        self.photographs = sorted(path for path in SAMPLES.iterdir() if path.suffix in {".jpg", ".png"})
        self.uploader = DemoUpload(stack, self.photographs, console)

    def print_urls(self) -> None:
        """Print where to look."""
        door, server = self.stack.door_url, self.stack.server.url
        self.console.print(
            f"Prefect UI    {server}/v2/runs\ngallery       {door}/gallery   token: {self.token}\n"
            f"bucket        s3://{BUCKET} at {self.sandbox.aws.url}\n"
            f"request log   {self.sandbox.provider.url}/_sandbox/requests\n",
            soft_wrap=True,
        )

    def upload(self, title: str) -> bool:
        """Upload the photographs, print each step, and return whether all flow runs completed."""
        self.console.rule(f"[bold]{title}[/]", align="left")
        completed = self.uploader.upload()
        self.console.print()
        return completed

    def print_bill(self, first_usd: Decimal) -> bool:
        """Print what the provider billed, and return whether the second upload was free."""
        provider = self.sandbox.provider
        free = provider.billed_usd == first_usd
        self.console.rule("[bold]The provider's bill[/]", align="left")
        self.console.print(
            f"First upload:  {provider.billed().total()} videos billed, ${money_text(first_usd)}\n"
            f"Second upload: ${money_text(provider.billed_usd - first_usd)}\n",
            style="" if free else "bold red",
        )
        return free

    def copy_videos(self, folder: Path) -> bool:
        """Copy the videos to a folder in the project's root, and return whether all are there."""
        (ROOT / folder).mkdir(parents=True, exist_ok=True)
        videos = {Path(key).parent.stem: key for key in self.sandbox.keys("videos/") if key.endswith(".mp4")}
        for name, key in videos.items():
            (ROOT / folder / f"{name}.mp4").write_bytes(self.sandbox.read(key))
        self.console.rule("[bold]Your videos[/]", align="left")
        self.console.print(*(f"{folder}/{name}.mp4" for name in videos), "", sep="\n", soft_wrap=True)
        return set(videos) == {photograph.stem for photograph in self.photographs} - {TOO_SMALL}

    def print_environment(self) -> None:
        """Print how to upload a photograph of one's own to the running stack."""
        exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in self.stack.user_env.items())
        (ROOT / ENVIRONMENT).write_text(exports)
        self.console.rule("[bold]Running until Ctrl-C[/]", align="left")
        self.print_urls()
        self.console.print(UPLOAD_YOUR_OWN, markup=False, soft_wrap=True)


def _wait_for_signal() -> None:
    """Return if the process that started the demo was killed, such as make; signals end the process by an exception."""
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(1)


@contextmanager
def _running_demo(console: Console) -> Iterator[Demo]:
    began, token = time.monotonic(), secrets.token_hex(8)
    with ExitStack() as contexts:
        with console.status("Starting the sandbox") as status:
            folder = contexts.enter_context(tempfile.TemporaryDirectory(prefix="i2v-demo-", ignore_cleanup_errors=True))
            options = ProviderOptions(render_seconds=RENDER_SECONDS)
            sandbox = contexts.enter_context(Sandbox(options, bucket=BUCKET, notifications=True))
            extra_env = {"I2V_DEFAULT_PROMPT": PROMPT, "I2V_GALLERY_TOKEN": token}
            stack = contexts.enter_context(FullStack(sandbox, Path(folder), extra_env, status.update))
        console.print(f"Started sandbox, Prefect server, worker and door in {time.monotonic() - began:.0f} s.")
        console.print(f"make deploy: {stack.deploy_output.splitlines()[-1]}.\n", markup=False, soft_wrap=True)
        try:
            yield Demo(stack, token, console)
        finally:
            console.print("Shutting down")


def run_demo(console: Console, *, keep: bool, folder: Path) -> int:
    """Run the demo and return its exit code; with `keep`, wait for Ctrl-C at the end."""
    console.print(f"[bold]{TITLE}[/]\n\n{ABOUT}")
    with _running_demo(console) as demo:
        demo.print_urls()
        first = demo.upload("Upload the photographs")
        first_usd = demo.sandbox.provider.billed_usd
        second = demo.upload("Upload them again: nothing is charged twice")
        free = demo.print_bill(first_usd)
        all_copied = demo.copy_videos(folder)
        if keep:
            demo.print_environment()
            _wait_for_signal()
    console.print("Stopped. Run `KEEP=1 make demo` to keep everything running and open the gallery.")
    return 0 if first and second and free and all_copied else 1


def main() -> int:
    """Run the demo: exit code 0 on success, 1 on failure, 130 after Ctrl-C."""
    console = Console(highlight=False)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for `make demo &`
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        return run_demo(console, keep=bool(os.environ.get("KEEP")), folder=FOLDER)
    except (OSError, RuntimeError) as error:
        console.print(f"The demo failed: {error}", style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("Stopped.")
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
