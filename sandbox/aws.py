"""S3 and SQS on this machine: ministack as a child process. `python -m sandbox.aws` is that child."""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Self

import httpx

from sandbox.provider.server import listen

START_SECONDS = 30
STOP_SECONDS = 5
SERVICES = "s3,sqs,events,sts"


class Aws:
    """A running ministack, bound to one address of this machine.

    It holds everything in memory. It ends with this process however that ends: it reads a pipe that only we hold.
    """

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self._place = (host, port)

    def start(self) -> Self:
        """Start the child and wait until it answers.

        Raises:
            OSError: the port is taken.
        RuntimeError: it ended or did not answer; carries what it said.
        """
        with listen(*self._place) as free:
            self.host, self.port = free.getsockname()[:2]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        self._child = subprocess.Popen(
            [sys.executable, "-m", "sandbox.aws"],
            env=self._environment(),
            cwd=Path(__file__).parent.parent,
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            self._wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _environment(self) -> dict[str, str]:
        ours = {
            "BIND_HOST": self.host,
            "GATEWAY_PORT": str(self.port),
            "IOT_MTLS_ENABLED": "0",
            "SFTP_ENABLED": "0",
            "SERVICES": SERVICES,
            "LOG_LEVEL": "WARNING",
            "PYTHONUNBUFFERED": "1",
        }
        unwanted = ("AWS_", "I2V_", "APIXO_")
        return {name: value for name, value in os.environ.items() if not name.startswith(unwanted)} | ours

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._child.poll() is None:
            try:
                if httpx.get(f"{self.url}/_ministack/health", trust_env=False).is_success:
                    return
            except httpx.TransportError:
                time.sleep(0.02)
        self._log.seek(0)
        raise RuntimeError(f"S3 did not start on {self.address}: {self._log.read()[-2000:].decode(errors='replace')}")

    def reset(self) -> None:
        """Empty it: every bucket and queue is gone."""
        httpx.post(f"{self.url}/_ministack/reset", trust_env=False).raise_for_status()

    def stop(self) -> None:
        """End the child, by force if it does not listen."""
        if self._child.stdin:
            self._child.stdin.close()
        try:
            self._child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()
        self._log.close()

    @property
    def address(self) -> str:
        """host:port."""
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """What `AWS_ENDPOINT_URL` is to be."""
        return f"http://{self.address}"


def _end_with_parent(folder: tempfile.TemporaryDirectory[str]) -> None:
    sys.stdin.buffer.read()
    folder.cleanup()
    os._exit(0)


def _serve() -> None:
    folder = tempfile.TemporaryDirectory(prefix="i2v-aws-")
    tempfile.tempdir = os.environ["TMPDIR"] = folder.name
    threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()
    sys.argv = sys.argv[:1]
    runpy.run_module("ministack", run_name="__main__")


if __name__ == "__main__":
    _serve()
