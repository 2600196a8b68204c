"""`CallbackReceiver`: receive and verify callbacks on a real socket, and keep their hints for `reconcile`."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from uuid import uuid4

from i2v.apixo.callbacks import callback_task_id, verify
from i2v.pipeline.context import RunContext
from i2v.pipeline.run import open_run
from i2v.recovery.adopt_from_callback import CallbackHint
from i2v.reports.run_report import Report
from i2v.settings import Settings
from tests.support.reconciling import reconcile
from tests.support.settings import MakeSettings

SECRET = "a-secret-of-the-tests-that-is-long"


class CallbackReceiver(ThreadingHTTPServer):
    """Return 200 for signed callbacks, once `open` is set, and 404 for anything else."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.open = threading.Event()
        self.open.set()
        self.hints: list[str] = []
        self.paths: list[str] = []
        self.settings: Settings | None = None

    def env(self, env: dict[str, str]) -> dict[str, str]:
        """Return the environment with callbacks sent to this server."""
        address = f"127.0.0.1:{self.server_port}"
        return env | {
            "I2V_CALLBACK_BASE_URL": f"http://{address}",
            "I2V_CALLBACK_SECRET": SECRET,
            "I2V_FIRST_SUBMITS": "0",  # the first ones of a bucket would be polled
            "I2V_PRIVATE_HOSTS": f"{env['I2V_PRIVATE_HOSTS']},{address}",
        }

    def answer(self, path: str, body: bytes) -> int:
        """Keep the hint and return the status."""
        self.paths.append(path)
        _, _, job, attempt, signature = path.split("/")
        task_id = callback_task_id(body)
        assert self.settings
        if task_id is None or not verify(self.settings, job, attempt, signature):
            return 404
        self.hints.append(str(CallbackHint(job, int(attempt), task_id)))
        self.open.wait(30)
        return 200

    def wait(self, count: int, seconds: float = 30) -> list[str]:
        """Wait for this many hints and return all."""
        deadline = time.monotonic() + seconds
        while len(self.hints) < count:
            assert time.monotonic() < deadline, f"only {len(self.hints)} of {count} callbacks arrived"
            time.sleep(0.005)
        return list(self.hints)


class _Handler(BaseHTTPRequestHandler):
    server: CallbackReceiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.send_response(self.server.answer(self.path, body))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - named by the library
        """Log nothing."""


@contextmanager
def serve_callbacks(make_settings: MakeSettings, env: dict[str, str]) -> Iterator[CallbackReceiver]:
    """Run a receiver; its `settings` are those of a run with callbacks to it."""
    with CallbackReceiver() as server:
        server.settings = make_settings(**server.env(env))
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.open.set()
        server.shutdown()
        thread.join()


def open_callback_run(receiver: CallbackReceiver, **changes: object) -> AbstractAsyncContextManager[RunContext]:
    """Open a run with callbacks to the receiver; keywords change its settings."""
    assert receiver.settings
    return open_run(receiver.settings.model_copy(update=changes), str(uuid4()))


async def run_collect(receiver: CallbackReceiver, hints: list[str] | None = None, **changes: object) -> Report:
    """Do what the deployment `collect` does with these hints; without hints, what `reconcile` does."""
    async with open_callback_run(receiver, **changes) as run:
        return await reconcile(run, entries=hints)
