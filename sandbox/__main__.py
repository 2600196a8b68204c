"""`python -m sandbox`: run the sandbox from a shell until it is stopped."""

import argparse
import signal
import sys
import threading
from decimal import Decimal
from pathlib import Path

from sandbox.provider import ProviderOptions
from sandbox.sandbox import Sandbox

ABOUT = """\
Start an emulator of the paid provider, S3 and SQS on this machine, and print the environment variables to use them.
No charges, no model calls: the videos are synthetic camera moves over each image."""
EXAMPLES = """\
examples:
  python -m sandbox                                  print `export …` lines and run until Ctrl-C
  python -m sandbox --env-file .sandbox/env          also write KEY=VALUE lines to a file
  python -m sandbox --render-seconds 100             take as long as the real provider
  python -m sandbox --port 8401 --s3-port 8402       use the same addresses every time

while it runs, at the provider's address:
  GET  /_sandbox/requests                            list the requests received
  GET  /_sandbox/tasks                               list the tasks and what was billed
  POST /_sandbox/options   {"balance_usd": 1}        change options
  POST /_sandbox/faults    {"on": "submit", "kind": "lost_answer"}
  POST /_sandbox/reset                               reset everything"""


def _parser() -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m sandbox", description=ABOUT, epilog=EXAMPLES, formatter_class=formatter)
    parser.add_argument("--port", type=int, default=0, help="port of the provider (default: a free port)")
    parser.add_argument("--s3-port", type=int, default=0, help="port of S3 and SQS (default: a free port)")
    parser.add_argument("--bucket", default="i2v-sandbox", help="bucket to create (default: %(default)s)")
    parser.add_argument("--render-seconds", type=float, default=8, help="rendering time (default: %(default)s)")
    parser.add_argument("--balance", type=float, default=100, help="account balance in USD (default: 100)")
    parser.add_argument("--fast", action="store_true", help="render coarse videos that need little CPU")
    parser.add_argument("--shared", action="store_true", help="use one video for all images of a size (load tests)")
    parser.add_argument("--versioning", action="store_true", help="turn on bucket versioning")
    parser.add_argument("--notifications", action="store_true", help="send bucket notifications to an SQS queue")
    parser.add_argument("--env-file", type=Path, help="write KEY=VALUE lines to this file once ready")
    return parser


def _sandbox(args: argparse.Namespace) -> Sandbox:
    options = ProviderOptions(
        render_seconds=args.render_seconds,
        balance_usd=Decimal(args.balance),
        fast=args.fast,
        render="shared" if args.shared else "each",
    )
    return Sandbox(
        options,
        port=args.port,
        s3_port=args.s3_port,
        bucket=args.bucket,
        versioning=args.versioning,
        notifications=args.notifications,
    )


def _print_env(sandbox: Sandbox, args: argparse.Namespace) -> None:
    lines = "".join(f"{name}={value}\n" for name, value in sandbox.env.items())
    if args.env_file:
        args.env_file.parent.mkdir(parents=True, exist_ok=True)
        part = args.env_file.with_suffix(".part")
        part.write_text(lines)
        part.rename(args.env_file)
    exports = "".join(f"export {line}\n" for line in lines.splitlines())
    about = ABOUT.replace("\n", "\n# ")
    sys.stdout.write(f"# {about}\n# Set these in another shell:\n{exports}")
    sys.stdout.write(f"# Tasks and bills: {sandbox.provider.url}/_sandbox/tasks   Press Ctrl-C to stop.\n")
    sys.stdout.flush()


def main() -> int:
    """Run until SIGINT (exit code 130) or SIGTERM (0); return 2 if it cannot start."""
    args = _parser().parse_args()
    stopped = threading.Event()
    signals: list[int] = []

    def stop(number: int, _: object) -> None:
        signals.append(number)
        stopped.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        with _sandbox(args) as sandbox:
            _print_env(sandbox, args)
            stopped.wait()
    except (OSError, RuntimeError, ValueError) as error:
        sys.stderr.write(f"The sandbox did not start: {error}\n")
        return 2
    return 130 if signals[0] == signal.SIGINT else 0


if __name__ == "__main__":
    sys.exit(main())
