"""`FlowRunStarter`: start flow runs of one deployment, once per idempotency key. The only calls to Prefect's API."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from contextlib import AbstractContextManager, suppress
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import urlsplit
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from doors.health import OK, Dependency, Health
from i2v.errors import I2vError, UsageError

CALL_TIMEOUT_SECONDS = 20.0
CHECK_EVERY_SECONDS = 10.0
MAX_ERROR_CHARS = 300
T = TypeVar("T")


class PrefectUnavailable(I2vError):
    """Prefect is unreachable or returned a server error. The run may exist; retry with the same key."""

    retryable = True


class RunRejected(I2vError):
    """Prefect rejects the run until a person acts: no such deployment, wrong parameters or wrong credentials."""


def prefect_api_url() -> str:
    """Return Prefect's API URL without credentials.

    Raises:
        UsageError: the URL is not set. A temporary server inside the door would show its runs to no one.
    """
    url = PREFECT_API_URL.value()
    if not url:
        raise UsageError("PREFECT_API_URL is not set", "Set it to your Prefect server, e.g. http://host:4200/api")
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def without_client_retries() -> AbstractContextManager[Any]:
    """Turn off retries in Prefect's client: the batcher retries, and needs to see each error."""
    return temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0})


class FlowRunStarter:
    """Start runs of the deployment `flow/name`, and report its state to `health` as `dependency`."""

    def __init__(
        self, client: PrefectClient, deployment: str, health: Health, dependency: Dependency = "prefect"
    ) -> None:
        self._client = client
        self._deployment = deployment
        self._health = health
        self._dependency = dependency
        self._id: UUID | None = None
        self._rejection = ""

    async def start(self, parameters: dict[str, Any], *, key: str, tags: Sequence[str] = ()) -> FlowRun:
        """Start a flow run, or return the existing one with this idempotency key.

        Raises:
            PrefectUnavailable: the run may or may not exist; retry with the same key.
            RunRejected: a retry fails until a person acts.
        """
        try:
            run = await self._call(self._create(parameters, key, tags))
        except RunRejected as error:
            self._rejection = str(error)
            raise
        self._rejection = ""
        self._health.update(self._dependency, OK)
        return run

    async def _create(self, parameters: dict[str, Any], key: str, tags: Sequence[str]) -> FlowRun:
        return await self._client.create_flow_run_from_deployment(
            self._id or await self._look_up(), parameters=parameters, idempotency_key=key, tags=tags
        )

    async def _look_up(self) -> UUID:
        self._id = (await self._client.read_deployment_by_name(self._deployment)).id
        return self._id

    async def _call(self, call: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(CALL_TIMEOUT_SECONDS):
                return await call
        except (httpx.HTTPError, ObjectNotFound, TimeoutError) as error:
            translated = self._translate(error)
            self._health.update(self._dependency, str(translated))
            raise translated from error

    def _translate(self, error: Exception) -> I2vError:
        status = error.response.status_code if isinstance(error, httpx.HTTPStatusError) else None
        if isinstance(error, ObjectNotFound) or status == HTTPStatus.NOT_FOUND:
            self._id = None
            message = f"Deployment {self._deployment} does not exist at {prefect_api_url()}"
            return RunRejected(message, "Create it: make deploy")
        if not isinstance(error, httpx.HTTPStatusError):
            return PrefectUnavailable(
                f"Prefect cannot be reached at {prefect_api_url()} ({type(error).__name__})",
                "Check PREFECT_API_URL and the server; the door retries and loses nothing",
            )
        if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            return RunRejected(f"Prefect returned {status}", "Check PREFECT_API_KEY or PREFECT_API_AUTH_STRING")
        if status in {HTTPStatus.BAD_REQUEST, HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY}:
            return RunRejected(
                f"The deployment {self._deployment} rejects the parameters ({status}): "
                f"{error.response.text[:MAX_ERROR_CHARS]}",
                "It was deployed from another version: run make deploy",
            )
        return PrefectUnavailable(
            f"Prefect returned {status}", "Check the server's log; the door retries and loses nothing"
        )

    async def watch(self) -> None:
        """Check regularly that Prefect and the deployment are there, until cancelled."""
        while True:
            with suppress(I2vError):  # `_call` reports it to health
                await self._call(self._look_up())
                self._health.update(self._dependency, self._rejection or OK)  # a rejected run is still being retried
            await asyncio.sleep(CHECK_EVERY_SECONDS)
