"""A small door for tests: takes callbacks on a real socket, verifies them, and keeps what reconcile is to be told."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from uuid import uuid4

from i2v.apixo.callbacks import hint_of, verify
from i2v.pipeline.run import Run, open_run
from i2v.recovery.callbacks import CallbackHint
from i2v.recovery.reconcile import reconcile
from i2v.reports.run_report import Report
from i2v.settings import Settings
from tests.support.settings import MakeSettings

SECRET = "a-secret-of-the-tests-that-is-long"


class Receiver(ThreadingHTTPServer):
    """Answers 200 to what is signed, once `open` is set, and 404 to all else."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.open = threading.Event()
        self.open.set()
        self.told: list[str] = []
        self.paths: list[str] = []
        self.settings: Settings | None = None

    def env(self, env: dict[str, str]) -> dict[str, str]:
        """The variables by which the provider is told to call here."""
        here = f"127.0.0.1:{self.server_port}"
        return env | {
            "I2V_CALLBACK_BASE_URL": f"http://{here}",
            "I2V_CALLBACK_SECRET": SECRET,
            "I2V_PRIVATE_HOSTS": f"{env['I2V_PRIVATE_HOSTS']},{here}",
        }

    def answer(self, path: str, body: bytes) -> int:
        """Keep what was told."""
        self.paths.append(path)
        _, _, job, attempt, signature = path.split("/")
        hint = hint_of(body)
        assert self.settings
        if hint is None or not verify(self.settings, job, attempt, signature):
            return 404
        self.told.append(str(CallbackHint(job, int(attempt), hint.task_id)))
        self.open.wait(30)
        return 200

    def wait(self, count: int, seconds: float = 30) -> list[str]:
        """What was told, once it is so much."""
        deadline = time.monotonic() + seconds
        while len(self.told) < count:
            assert time.monotonic() < deadline, f"only {len(self.told)} of {count} callbacks came"
            time.sleep(0.005)
        return list(self.told)


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.send_response(self.server.answer(self.path, body))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - named by the library
        """Say nothing."""


@contextmanager
def receiving(make_settings: MakeSettings, env: dict[str, str]) -> Iterator[Receiver]:
    """A receiver, and in its `settings` those of a run that is called back there."""
    with Receiver() as server:
        server.settings = make_settings(**server.env(env))
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.open.set()
        server.shutdown()
        thread.join()


def run_of(door: Receiver, **changes: object) -> AbstractAsyncContextManager[Run]:
    """A run that is called back at the door; keywords change its settings."""
    assert door.settings
    return open_run(door.settings.model_copy(update=changes), str(uuid4()))


async def collect(door: Receiver, told: list[str] | None = None, **changes: object) -> Report:
    """What the deployment `collect` does with what was told; with none told, what `reconcile` does."""
    async with run_of(door, **changes) as run:
        return await reconcile(run, keys=told)
