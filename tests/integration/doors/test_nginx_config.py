"""`deployments/nginx.conf` in a real nginx before a small server: headers, limits and logs."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sandbox.server import wait_until
from tests.support.nginx_process import SHIPPED, Nginx, needs_nginx

pytestmark = needs_nginx
SIGNATURE = "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8"
CALLBACK = f"/apixo/{'a' * 64}/1/{SIGNATURE}"


class Door(BaseHTTPRequestHandler):
    """Answers every request, like a door."""

    def do_GET(self) -> None:
        """Answer with 200."""
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET  # noqa: N815 - the name that the base class looks for

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Nginx]:
    """A running nginx."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Door) as server:
        threading.Thread(target=server.serve_forever).start()
        proxy = Nginx(tmp_path / "nginx")
        proxy.configure(f"http://127.0.0.1:{server.server_port}")
        with proxy:
            yield proxy
        server.shutdown()


def _connect(nginx: Nginx, stack: ExitStack) -> ssl.SSLSocket:
    plain = stack.enter_context(socket.create_connection(("127.0.0.1", int(nginx.url.rpartition(":")[2])), 10))
    context = ssl.create_default_context(cafile=str(nginx.authority))
    return stack.enter_context(context.wrap_socket(plain, server_hostname="localhost"))


def test_no_log_has_a_signature(nginx: Nginx) -> None:
    """Callbacks that are passed on or rejected early leave no signature in a log; other requests are logged."""
    with nginx.client() as client:
        assert client.post(CALLBACK).status_code == 200
        assert client.get("/healthz?x=1").status_code == 200
        assert client.get("/metrics").status_code == 404
    broken = [
        f"POST {CALLBACK} HTTP/1.1\r\nHost: localhost\r\nX: {'x' * 40_000}\r\n\r\n",
        f"POST {CALLBACK} HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
        f"POST /{CALLBACK.replace('apixo', '%61pixo')} HTTP/1.1\r\nHost: local host\r\n\r\n",
    ]
    for request in broken:
        with ExitStack() as stack:
            secure = _connect(nginx, stack)
            secure.sendall(request.encode())
            assert secure.recv(1000).split()[1] == b"400"
    # nginx writes the log line after the response
    wait_until(lambda: nginx.logs()["access"].count('"POST (callback)" 400') == len(broken))
    logs = nginx.logs()
    assert '"GET /healthz" 200' in logs["access"]
    assert [name for name, text in logs.items() if SIGNATURE[:16] in text] == []


def test_responses_require_https(nginx: Nginx) -> None:
    """Every response, errors too, tells browsers to use https alone."""
    with nginx.client() as client:
        answers = [client.get(path) for path in ("/healthz", "/gallery", "/elsewhere")]
    assert {answer.headers["strict-transport-security"] for answer in answers} == {"max-age=31536000"}


def test_one_address_has_a_limit_of_connections(nginx: Nginx) -> None:
    """An address with 32 requests in progress gets 503 for the next one."""
    begun = b"POST /gallery/login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nx"
    with ExitStack() as stack:
        for _ in range(32):
            _connect(nginx, stack).sendall(begun)
        with nginx.client() as client:
            statuses = [client.get("/healthz").status_code for _ in range(3)]
    assert statuses == [503] * 3


def test_it_limits_slow_clients() -> None:
    """Head and body have the door's time limits."""
    text = SHIPPED.read_text()
    assert "client_header_timeout 10s;" in text
    assert "client_body_timeout 10s;" in text
