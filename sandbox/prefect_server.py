"""A Prefect server with its UI on loopback, as a child process."""

from pathlib import Path

from sandbox.child_process import ServerProcess, clean_environment

HOST = "127.0.0.1"
SETTINGS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_API_HOST": HOST,
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "200",
}
"""No telemetry, and events written in batches: a third of the CPU."""


class PrefectServer(ServerProcess):
    """A running Prefect server; it takes some 10 s to start with a new database.

    `home` is its PREFECT_HOME with the database; a temporary folder by default.
    """

    COMMAND = ("prefect", "server", "start")
    HEALTH_PATH = "/api/health"
    START_SECONDS = 120

    def __init__(self, *, port: int = 0, home: Path | None = None) -> None:
        super().__init__(host=HOST, port=port)
        self._home = home

    def environment(self, scratch: Path) -> dict[str, str]:
        """Set the port here and not by `--port`: only then does the UI find the API."""
        own = {"PREFECT_SERVER_API_PORT": str(self.port), "PREFECT_HOME": str(self._home or scratch)}
        return clean_environment() | SETTINGS | own

    @property
    def api_url(self) -> str:
        """The value of `PREFECT_API_URL`."""
        return f"{self.url}/api"
