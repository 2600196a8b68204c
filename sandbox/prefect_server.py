"""A Prefect server with its UI on loopback, as a child process."""

import time
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx

from sandbox.child_process import ROOT, ServerProcess, clean_environment
from sandbox.server import NO_TLS

SETTINGS = ROOT / "deployments" / "server.env"
"""What users set for their own server."""
REQUEST_SECONDS = 180
TRY_SECONDS = 20
PAUSE_SECONDS = 0.5


class PrefectServer(ServerProcess):
    """A running Prefect server; it takes some 10 s to start with a new database.

    `home` is its PREFECT_HOME with the database; a temporary folder by default. `settings` are further variables.
    """

    COMMAND = ("sandbox.prefect_command", "server", "start")
    HEALTH_PATH = "/api/health"
    START_SECONDS = 120

    def __init__(self, *, port: int = 0, home: Path | None = None, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(port=port)
        self._home, self._settings = home, settings or {}

    def environment(self, scratch: Path) -> dict[str, str]:
        """Set the port here and not by `--port`: only then does the UI find the API."""
        own = {"PREFECT_SERVER_API_PORT": str(self.port), "PREFECT_HOME": str(self._home or scratch)}
        settings = (line.split("=", 1) for line in SETTINGS.read_text().splitlines() if line and line[0] != "#")
        return clean_environment() | dict(settings) | own | dict(self._settings)

    @property
    def api_url(self) -> str:
        """The value of `PREFECT_API_URL`."""
        return f"{self.url}/api"

    def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Return the API's JSON response.

        Repeat the request while the server starts or does not answer, so a POST must be a query or have an idempotency
        key. Raise `RuntimeError` for another status, or if the server has exited or does not answer for minutes.
        """
        deadline, url = time.monotonic() + REQUEST_SECONDS, f"{self.api_url}/{path}"
        while True:
            try:
                response = httpx.request(method, url, json=body, trust_env=False, verify=NO_TLS, timeout=TRY_SECONDS)
                if response.status_code != HTTPStatus.SERVICE_UNAVAILABLE or time.monotonic() > deadline:
                    return response.raise_for_status().json()
            except httpx.HTTPStatusError as error:
                raise RuntimeError(f"the Prefect server returned {error.response.status_code} to {path}") from error
            except httpx.TransportError as error:
                if time.monotonic() > deadline or not self.is_running:
                    raise RuntimeError(f"the Prefect server did not answer {path}: {error!r}") from error
            time.sleep(PAUSE_SECONDS)
