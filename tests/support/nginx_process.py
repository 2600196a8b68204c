"""`Nginx`: a real nginx in front of a door, with the shipped configuration and the test's ports and paths."""

import shutil
import socket
import ssl
import subprocess
import time
from pathlib import Path
from typing import Self

import httpx
import pytest

from tests.support.certificate_authority import own_authority
from tests.support.paths import ROOT

SHIPPED = ROOT / "deployments/nginx.conf"
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed: run make test-proxy")
NGINX_CONF = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/i2v.conf;
}}
"""


def free_port() -> int:
    """Return a TCP port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Nginx:
    """`https://localhost` with a certificate of a test authority. Use it in `with`, which kills it at the end."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._port = free_port()
        self.url = f"https://localhost:{self._port}"
        self.authority = own_authority(folder, "localhost")[1]

    def configure(self, door_url: str) -> None:
        """Write the shipped configuration with the test's ports and paths."""
        text = SHIPPED.read_text()
        for shipped, own in {
            "listen 443 ssl;": f"listen 127.0.0.1:{self._port} ssl;",
            "door.example.com;": "localhost;",
            "/etc/letsencrypt/live/door.example.com/fullchain.pem": f"{self._folder}/leaf.pem",
            "/etc/letsencrypt/live/door.example.com/privkey.pem": f"{self._folder}/leaf.pem",
            "http://127.0.0.1:8410": door_url,
            "/var/log/nginx/": f"{self._folder}/",
        }.items():
            assert shipped in text, shipped
            text = text.replace(shipped, own)
        (self._folder / "i2v.conf").write_text(text)
        (self._folder / "nginx.conf").write_text(NGINX_CONF.format(folder=self._folder))

    def __enter__(self) -> Self:
        command = [str(NGINX), "-p", str(self._folder), "-e", "error.log", "-c", "nginx.conf"]
        with (self._folder / "output").open("w") as output:
            self._child = subprocess.Popen(command, stdout=output, stderr=output)  # noqa: S603 - a real nginx
        deadline = time.monotonic() + 30
        while not self._is_up():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._child.wait()

    def _is_up(self) -> bool:
        assert self._child.poll() is None, (self._folder / "output").read_text()
        try:
            with self.client() as client:
                return client.get("/").status_code == httpx.codes.NOT_FOUND
        except httpx.TransportError:
            return False

    def client(self) -> httpx.Client:
        """Return a client that trusts the test authority."""
        context = ssl.create_default_context(cafile=str(self.authority))
        return httpx.Client(base_url=self.url, verify=context, trust_env=False, timeout=60)

    def logs(self) -> dict[str, str]:
        """Return the access log and the error log."""
        return {name: (self._folder / f"{name}.log").read_text() for name in ("access", "error")}
