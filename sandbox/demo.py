"""`make demo`: the sample photographs become videos, for free, by the real command in a world of its own.

What is shown is what `i2v` prints. Here is only what surrounds it: the sandbox, a Prefect server, and what they say
in the end. `KEEP=1` leaves it all up.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from pathlib import Path
from types import FrameType

from rich.console import Console

from i2v.report import money_text
from sandbox.box import Sandbox
from sandbox.prefect_server import OUTSIDE, PrefectServer
from sandbox.provider import Dials

ROOT = Path(__file__).parent.parent
FOLDER = Path(".sandbox", "demo")
"""Where the videos are copied to, below the project's root."""
RENDER_SECONDS = 4.0
BUCKET = "i2v-demo"
INTERRUPTED = 130
COMMAND = (".venv/bin/i2v", "run", "samples/", "--prompt", "Slow push in, natural light", "--max-spend", "5")
TITLE = "i2v: the sample photographs become videos"
ABOUT = (
    "Nothing is paid here and no model is asked. The provider is a stand-in on this machine, as strict as the real "
    "one, and its videos are synthetic: a camera moves over the photograph. S3 is a stand-in too. The command, the "
    f"flow and Prefect are real. A video takes {RENDER_SECONDS:g} s here and 85 to 180 at the real provider; so it is "
    "asked for sooner, and more often (I2V_POLL_FIRST_SECONDS, I2V_POLL_EVERY_SECONDS).\n"
)


class Demo:
    """One showing: what is up, and where a person can look."""

    def __init__(self, box: Sandbox, server: PrefectServer, home: Path, console: Console) -> None:
        self.box = box
        self.server = server
        self.console = console
        self.env = box.env | {
            "PREFECT_API_URL": server.api_url,
            "PREFECT_HOME": str(home),
            "DO_NOT_TRACK": "1",
        }

    def run(self, about: str) -> int:
        """Run the command as a person would, and give its exit code."""
        self.console.rule(f"[bold]{about}[/]", align="left")
        self.console.print(f"$ {shlex.join(COMMAND)}\n", style="bold cyan", soft_wrap=True)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(OUTSIDE)}
        command = [str(Path(sys.executable).with_name("i2v")), *COMMAND[1:]]
        code = _wait(subprocess.Popen(command, cwd=ROOT, env=kept | self.env))
        self.console.print()
        if not self.server.is_running:
            self.console.print(
                f"The Prefect server has ended. Its last lines:\n{self.server.last_lines()}", markup=False
            )
        return code

    def tell_bill(self, first_usd: Decimal) -> bool:
        """Say what the provider itself has written down, and whether the second run was free."""
        provider = self.box.provider
        free = provider.billed_usd == first_usd
        self.console.rule("[bold]What the provider's own journal says[/]", align="left")
        self.console.print(
            f"First run:  {provider.billed().total()} videos billed, ${money_text(first_usd)}\n"
            f"Second run: ${money_text(provider.billed_usd - first_usd)}\n",
            style="" if free else "bold red",
        )
        return free

    def copy_videos(self, folder: Path) -> None:
        """Bring the videos from the bucket into a folder below the project's root."""
        (ROOT / folder).mkdir(parents=True, exist_ok=True)
        videos = {Path(key).parent.stem: key for key in self.box.keys("videos/") if key.endswith(".mp4")}
        for name, key in videos.items():
            (ROOT / folder / f"{name}.mp4").write_bytes(self.box.read(key))
        self.console.rule("[bold]The videos, to be watched[/]", align="left")
        self.console.print(*(f"{folder}/{name}.mp4" for name in videos), "", sep="\n", soft_wrap=True)

    def tell_keep(self) -> None:
        """Say where everything is and how to play on."""
        exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in self.env.items())
        self.console.rule("[bold]It stays up until Ctrl-C[/]", align="left")
        self.console.print(f"Prefect UI    {self.server.url}/runs\nS3            {self.box.aws.url}, bucket {BUCKET}")
        self.console.print(f"journal       {self.box.provider.url}/_sandbox/journal\n\nTo play on, in another shell:\n")
        self.console.print(exports, markup=False, soft_wrap=True)


@contextmanager
def _world(console: Console) -> Iterator[Demo]:
    began = time.monotonic()
    with ExitStack() as stack:
        with console.status("Starting the sandbox and a Prefect server: some 15 s"):
            home = stack.enter_context(tempfile.TemporaryDirectory(prefix="i2v-demo-", ignore_cleanup_errors=True))
            box = stack.enter_context(Sandbox(Dials(render_seconds=RENDER_SECONDS), bucket=BUCKET))
            server = stack.enter_context(PrefectServer())
        console.print(f"Sandbox and Prefect server are up, after {time.monotonic() - began:.0f} s.\n")
        yield Demo(box, server, Path(home), console)


def _wait(child: subprocess.Popen[bytes]) -> int:
    """A Ctrl-C reaches the child too, which then ends cleanly: only a SIGTERM, which it does not see, is passed on."""
    interrupted = False
    while True:
        try:
            code = child.wait()
        except KeyboardInterrupt:
            interrupted = True
        except SystemExit:
            child.terminate()
            child.wait()
            raise
        else:
            return code or (INTERRUPTED if interrupted else 0)


def show(console: Console, *, keep: bool, folder: Path) -> int:
    """Show all of it, and give the exit code; kept up, it waits for Ctrl-C in the end."""
    console.print(f"[bold]{TITLE}[/]\n\n{ABOUT}")
    with _world(console) as demo:
        if code := demo.run("Animate them"):
            return code
        first_usd = demo.box.provider.billed_usd
        if code := demo.run("The same again: nothing is paid twice"):
            return code
        free = demo.tell_bill(first_usd)
        demo.copy_videos(folder)
        if keep:
            demo.tell_keep()
            signal.pause()
    console.print("Sandbox and Prefect server are down again. To look at them: KEEP=1 make demo")
    return 0 if free else 1


def _end(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


def main() -> int:
    """Run the demo; 0 where all went as it should, else the failing command's code, and 130 after Ctrl-C."""
    console = Console(highlight=False)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell's `&` had it ignored
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    try:
        return show(console, keep=bool(os.environ.get("KEEP")), folder=FOLDER)
    except (OSError, RuntimeError) as error:
        console.print(f"The demo did not start: {error}", style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("Stopped: sandbox and Prefect server are down.")
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
