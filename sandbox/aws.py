"""S3 and SQS on this machine: ministack as a child process, in memory."""

from pathlib import Path

import httpx

from sandbox.child_process import ServerProcess, clean_environment
from sandbox.server import NO_TLS


class Aws(ServerProcess):
    """A running ministack. Its `url` is the value of `AWS_ENDPOINT_URL`."""

    COMMAND = ("ministack",)
    HEALTH_PATH = "/_ministack/health"
    START_SECONDS = 30

    def environment(self, scratch: Path) -> dict[str, str]:
        """Bind to the chosen address and start only the services in use."""
        return clean_environment() | {
            "BIND_HOST": self.host,
            "GATEWAY_PORT": str(self.port),
            "IOT_MTLS_ENABLED": "0",
            "SFTP_ENABLED": "0",
            "SERVICES": "s3,sqs,events,sts",
            "LOG_LEVEL": "WARNING",
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(scratch),
        }

    def reset(self) -> None:
        """Delete all buckets and queues."""
        httpx.post(f"{self.url}/_ministack/reset", trust_env=False, verify=NO_TLS).raise_for_status()
