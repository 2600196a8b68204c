"""`make cluster`: start the services of deployments/compose.yaml on this machine and keep them until Ctrl-C."""

import os
import shlex
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from sandbox.child_process import ROOT
from sandbox.cluster.cluster import Cluster
from sandbox.cluster.compose import read_env_file
from sandbox.provider import ProviderOptions
from sandbox.sandbox import Sandbox

FOLDER = ROOT / ".sandbox" / "cluster"
PROMPT = "Slow push in, natural light"
INTERRUPTED = 130


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _world(stack: ExitStack, env_file: str) -> dict[str, str]:
    """Return the settings of workers and doors: those of a file, or those of a sandbox that this starts."""
    if env_file:
        return read_env_file(Path(env_file).read_text())
    _say("Starting the sandbox: an emulator of the provider, S3 and SQS. Nothing is paid.")
    sandbox = Sandbox(ProviderOptions(render_seconds=8), bucket="i2v-cluster", notifications=True)
    return stack.enter_context(sandbox).env | {"I2V_DEFAULT_PROMPT": PROMPT}


def _run(env_file: str, replicas: dict[str, int]) -> None:
    with ExitStack() as stack:
        FOLDER.mkdir(parents=True, exist_ok=True)
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=FOLDER, ignore_cleanup_errors=True))
        settings = _world(stack, env_file)
        cluster = stack.enter_context(Cluster(Path(folder), settings, replicas=replicas, on_progress=_say))
        exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in cluster.user_environment.items())
        _say(f"\nPrefect UI    {cluster.url('nginx', 4200)}/v2/runs")
        _say(f"doors         {cluster.url('nginx', 8410)}/healthz")
        _say(f"logs          {Path(folder).relative_to(ROOT)}\n")
        _say(f"Set these in another shell, then upload images or run .venv/bin/i2v:\n\n{exports}")
        _say("Ready. Press Ctrl-C to stop.")
        signal.pause()


def _replicas(words: str) -> dict[str, int]:
    """Return the processes of each service in `api-2=3 services=4`, as --scale of Compose takes them."""
    return {name: int(count) for name, _, count in (word.partition("=") for word in words.split())}


def main() -> int:
    """Run until SIGINT (exit code 130) or SIGTERM (143); return 1 if something does not start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for `make cluster &`
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        _run(os.environ.get("ENV", ""), _replicas(os.environ.get("SCALE", "")))
    except (OSError, RuntimeError, ValueError) as error:
        sys.stderr.write(f"The cluster did not start: {error}\n")
        return 1
    except KeyboardInterrupt:
        _say("Stopped.")
    return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
