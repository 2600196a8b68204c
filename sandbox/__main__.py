"""`python -m sandbox`: the whole box from a shell, until it is stopped."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from decimal import Decimal, InvalidOperation
from pathlib import Path

from sandbox.provider import ProviderOptions
from sandbox.sandbox import Sandbox

ABOUT = """\
Starts a stand-in for the paid provider, S3 and SQS on this machine, and prints what to set to use them.
Nothing is paid and no model is asked: its videos are synthetic, camera moves over the image they were given."""
MORE = """\
examples:
  python -m sandbox                                  print `export …` lines, run until Ctrl-C
  python -m sandbox --env-file .sandbox/env          also write KEY=VALUE lines there
  python -m sandbox --render-seconds 100             take as long as the real provider
  python -m sandbox --port 8401 --s3-port 8402       the same addresses each time

while it runs, at the provider's address:
  GET  /_sandbox/journal   GET /_sandbox/tasks       what was asked and billed
  POST /_sandbox/settings  {"balance_usd": 1}        change it
  POST /_sandbox/faults    {"on": "submit", "kind": "lost_answer"}
  POST /_sandbox/reset                               forget everything"""


def _money(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise argparse.ArgumentTypeError(f"{text!r} is no amount of US dollars") from None


def _parser() -> argparse.ArgumentParser:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m sandbox", description=ABOUT, epilog=MORE, formatter_class=form)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="the provider's port (default: a free one)")
    parser.add_argument("--s3-port", type=int, default=0, help="port of S3 and SQS (default: a free one)")
    parser.add_argument("--bucket", default="i2v-sandbox", help="bucket to make (default: %(default)s)")
    parser.add_argument(
        "--data-dir", type=Path, help="keep made videos there, to make none twice (default: a temporary)"
    )
    parser.add_argument("--render-seconds", type=float, default=8, help="how long a video takes (default: %(default)s)")
    parser.add_argument("--balance", type=_money, default=Decimal(100), help="US dollars of play money (default: 100)")
    parser.add_argument("--fast", action="store_true", help="coarse videos that cost little CPU")
    parser.add_argument("--shared", action="store_true", help="one video for all images of a size, for load tests")
    parser.add_argument("--versioning", action="store_true", help="let the bucket keep versions")
    parser.add_argument("--notifications", action="store_true", help="tell an SQS queue of each new object")
    parser.add_argument("--print-env", action="store_true", help="print plain KEY=VALUE lines and nothing else")
    parser.add_argument("--env-file", type=Path, help="write KEY=VALUE lines there, once all is ready")
    return parser


def _sandbox(given: argparse.Namespace) -> Sandbox:
    dials = ProviderOptions(
        render_seconds=given.render_seconds,
        balance_usd=given.balance,
        fast=given.fast,
        render="shared" if given.shared else "each",
    )
    return Sandbox(
        dials,
        host=given.host,
        port=given.port,
        s3_port=given.s3_port,
        folder=given.data_dir,
        bucket=given.bucket,
        versioning=given.versioning,
        notifications=given.notifications,
    )


def _announce(box: Sandbox, given: argparse.Namespace) -> None:
    plain = "".join(f"{name}={value}\n" for name, value in box.env.items())
    if given.env_file:
        given.env_file.parent.mkdir(parents=True, exist_ok=True)
        part = given.env_file.with_suffix(".part")
        part.write_text(plain)
        part.rename(given.env_file)
    if given.print_env:
        sys.stdout.write(plain)
    else:
        exports = "".join(f"export {line}\n" for line in plain.splitlines())
        sys.stdout.write(f"# {ABOUT.replace(chr(10), chr(10) + '# ')}\n# To use it, set in another shell:\n{exports}")
        sys.stdout.write(f"# What it billed: {box.provider.url}/_sandbox/tasks   Ctrl-C stops it.\n")
    sys.stdout.flush()


def main() -> int:
    """Run until SIGINT (exit 130) or SIGTERM (0); 2 where it cannot start."""
    given = _parser().parse_args()
    stopped = threading.Event()
    caught: list[int] = []

    def stop(number: int, _: object) -> None:
        caught.append(number)
        stopped.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        with _sandbox(given) as box:
            _announce(box, given)
            stopped.wait()
    except (OSError, RuntimeError, ValueError) as error:
        sys.stderr.write(f"The sandbox did not start: {error}\n")
        return 2
    return 130 if caught[0] == signal.SIGINT else 0


if __name__ == "__main__":
    sys.exit(main())
