"""`FlowRunStarter`: start flow runs of one deployment, once per idempotency key."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, TypeVar
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL

from doors.health import OK, Dependency, Health
from i2v.cli.prefect.server_errors import describe_server_error, shown_api_url
from i2v.errors import I2vError, UsageError

CALL_TIMEOUT_SECONDS = 20.0
CHECK_EVERY_SECONDS = 10.0
MAX_ERROR_CHARS = 300
T = TypeVar("T")
RunName = Callable[[Mapping[str, Any]], str]


class PrefectUnavailable(I2vError):
    """Prefect is unreachable or returned a server error. The run may exist; retry with the same key."""

    retryable = True


class RunRejected(I2vError):
    """Prefect rejects the run until a person acts: no such deployment, wrong parameters or wrong credentials."""


def prefect_api_url() -> str:
    """Return Prefect's API URL without credentials."""
    url = PREFECT_API_URL.value()
    if not url:  # the client would start a temporary server inside the door, whose runs no worker sees
        raise UsageError("PREFECT_API_URL is not set", "Set it to your Prefect server, e.g. http://host:4200/api")
    return shown_api_url()


@dataclass
class FlowRunStarter:
    """Start runs of the deployment `flow/name`, and report its state to `health` as `dependency`."""

    client: PrefectClient
    deployment: str
    health: Health
    dependency: Dependency = "prefect"
    _id: UUID | None = None
    _defaults: dict[str, Any] = field(default_factory=dict)
    """The deployment's own parameters."""
    _rejection: str = ""

    async def start(
        self, parameters: dict[str, Any], *, key: str, name: RunName | None = None, tags: Sequence[str] = ()
    ) -> FlowRun:
        """Start a flow run, or return the existing one with this idempotency key.

        `name` returns the run's name from all its parameters.

        Raise `PrefectUnavailable` if the run may or may not exist, `RunRejected` if a person must act first.
        """
        try:
            run = await self._call(self._create(parameters, key, name, tags))
        except RunRejected as error:
            self._rejection = str(error)
            raise
        self._rejection = ""
        self.health.update(self.dependency, OK)
        return run

    async def _create(self, parameters: dict[str, Any], key: str, name: RunName | None, tags: Sequence[str]) -> FlowRun:
        deployment = self._id or await self._look_up()
        named = name(self._defaults | parameters) if name else None
        return await self.client.create_flow_run_from_deployment(
            deployment, parameters=parameters, idempotency_key=key, name=named, tags=tags
        )

    async def _look_up(self) -> UUID:
        deployment = await self.client.read_deployment_by_name(self.deployment)
        self._id, self._defaults = deployment.id, deployment.parameters
        return deployment.id

    async def _call(self, call: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(CALL_TIMEOUT_SECONDS):
                return await call
        except (httpx.HTTPError, ObjectNotFound, TimeoutError, ValueError, RuntimeError) as error:
            translated = self._translate(error)
            self.health.update(self.dependency, str(translated))
            raise translated from error

    def _translate(self, error: Exception) -> I2vError:
        status = error.response.status_code if isinstance(error, httpx.HTTPStatusError) else None
        if isinstance(error, ObjectNotFound):
            self._id = None
            return RunRejected(
                f"Deployment {self.deployment} does not exist at {prefect_api_url()}", "Create it: make deploy"
            )
        message, hint = describe_server_error(error)
        if not isinstance(error, httpx.HTTPStatusError):
            return PrefectUnavailable(message, f"{hint}. The door retries and loses nothing")
        if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            return RunRejected(message, hint)
        if status in {HTTPStatus.BAD_REQUEST, HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY}:
            return RunRejected(
                f"The deployment {self.deployment} rejects the parameters ({status}): "
                f"{error.response.text[:MAX_ERROR_CHARS]}",
                "It was deployed from another version: run make deploy",
            )
        return PrefectUnavailable(message, f"{hint}. The door retries and loses nothing")

    async def watch(self) -> None:
        """Check regularly that Prefect and the deployment are there, until cancelled."""
        while True:
            with suppress(I2vError):  # `_call` reports it to health
                await self._call(self._look_up())
                self.health.update(self.dependency, self._rejection or OK)  # a rejected run is still being retried
            await asyncio.sleep(CHECK_EVERY_SECONDS)
