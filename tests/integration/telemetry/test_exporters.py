"""Spans and metrics go to the collector that the environment names, and one that is down fails no run."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from sandbox import Sandbox
from tests.support.i2v_command import bare_env, i2v

TOKEN = "the-collectors-own-token"


class Collector(ThreadingHTTPServer):
    """A collector that keeps what it gets."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.received: dict[str, bytes] = {}
        self.tokens: set[str | None] = set()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received[self.path] = self.server.received.get(self.path, b"") + body
        self.server.tokens.add(self.headers["X-Token"])
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    """Start a collector."""
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def env(sandbox: Sandbox, collector: Collector) -> dict[str, str]:
    """Return an environment with a collector that wants a token."""
    exporter = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_EXPORTER_OTLP_HEADERS": f"X-Token={TOKEN}"}
    return bare_env(**sandbox.env, **exporter)


def test_a_command_exports_its_spans_before_it_ends(env: dict[str, str], collector: Collector) -> None:
    """A run sends its spans to the configured collector, with i2v's name and version, and prints the same."""
    ended = i2v("reconcile", "--json", env=env)
    assert ended.code == 0, ended.err

    assert set(collector.received) == {"/v1/traces"}, "a run without images has no metrics"
    assert all(text in collector.received["/v1/traces"] for text in (b"i2v.run", b"service.version", b"service.name"))
    assert collector.tokens == {TOKEN}
    assert TOKEN not in ended.out + ended.err


def test_an_unreachable_collector_does_not_fail_a_run(env: dict[str, str], collector: Collector) -> None:
    """If the collector does not answer, the run does its work and ends with its own exit code."""
    ended = i2v(
        "reconcile",
        "--json",
        env=env | {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_EXPORTER_OTLP_TIMEOUT": "1"},
    )

    assert (ended.code, ended.report["items"]) == (0, [])
    assert collector.received == {}
