"""A Prefect server with its UI on loopback, as a child process."""

from pathlib import Path

from sandbox.child_process import ROOT, ServerProcess, clean_environment

SETTINGS = ROOT / "deployments" / "server.env"
"""What users set for their own server."""


class PrefectServer(ServerProcess):
    """A running Prefect server; it takes some 10 s to start with a new database.

    `home` is its PREFECT_HOME with the database; a temporary folder by default.
    """

    COMMAND = ("sandbox.prefect_command", "server", "start")
    HEALTH_PATH = "/api/health"
    START_SECONDS = 120

    def __init__(self, *, port: int = 0, home: Path | None = None) -> None:
        super().__init__(port=port)
        self._home = home

    def environment(self, scratch: Path) -> dict[str, str]:
        """Set the port here and not by `--port`: only then does the UI find the API."""
        own = {"PREFECT_SERVER_API_PORT": str(self.port), "PREFECT_HOME": str(self._home or scratch)}
        settings = (line.split("=", 1) for line in SETTINGS.read_text().splitlines() if line and line[0] != "#")
        return clean_environment() | dict(settings) | own

    @property
    def api_url(self) -> str:
        """The value of `PREFECT_API_URL`."""
        return f"{self.url}/api"
