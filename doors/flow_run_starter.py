"""Prefect: `FlowRunStarter`, which starts flow runs of one deployment, each once a key. Parameters are the caller's."""

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

CALL_SECONDS = 20.0
LOOK_EVERY_SECONDS = 10.0
SHOWN = 300
"""Characters of Prefect's own words."""
T = TypeVar("T")


class PrefectUnavailable(I2vError):
    """Prefect cannot be reached, or did not answer well: it may be back soon."""

    retryable = True


class RunRejected(I2vError):
    """Prefect answers, and a person has to do something before it starts runs."""


def prefect_api_url() -> str:
    """Where Prefect is, without what may be secret in it.

    Raises:
        UsageError: it is not set: a server inside the door would show its runs to nobody.
    """
    url = PREFECT_API_URL.value()
    if not url:
        raise UsageError("PREFECT_API_URL is not set", "Set it to your Prefect server's, such as http://host:4200/api")
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def without_client_retries() -> AbstractContextManager[Any]:
    """Prefect's client repeats no request within it: the gatherer does, and has to know what goes wrong."""
    return temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0})


class FlowRunStarter:
    """Flow runs of the deployment `flow/name`; how it fares is said under `neighbour`."""

    def __init__(self, client: PrefectClient, name: str, health: Health, neighbour: Dependency = "prefect") -> None:
        self._client = client
        self.name = name
        self._health = health
        self._neighbour = neighbour
        self._id: UUID | None = None
        self._stuck = ""

    async def start(self, parameters: dict[str, Any], *, key: str, tags: Sequence[str] = ()) -> FlowRun:
        """A flow run; the one that is there already, where the key was used before.

        Raises:
            PrefectAway: it may or may not be created; with the same key it is safe to ask again.
            CannotStart: there is no such deployment, or it does not take these parameters.
        """
        try:
            run = await self._asked(self._start(parameters, key, tags))
        except RunRejected as error:
            self._stuck = str(error)
            raise
        self._stuck = ""
        self._health.say(self._neighbour, OK)
        return run

    async def _start(self, parameters: dict[str, Any], key: str, tags: Sequence[str]) -> FlowRun:
        found = self._id or await self._look_up()
        return await self._client.create_flow_run_from_deployment(
            found, parameters=parameters, idempotency_key=key, tags=tags
        )

    async def _look_up(self) -> UUID:
        self._id = (await self._client.read_deployment_by_name(self.name)).id
        return self._id

    async def _asked(self, asking: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(CALL_SECONDS):
                return await asking
        except (httpx.HTTPError, ObjectNotFound, TimeoutError) as error:
            failed = self._translated(error)
            self._health.say(self._neighbour, str(failed))
            raise failed from error

    def _translated(self, error: Exception) -> I2vError:
        if isinstance(error, httpx.HTTPStatusError):
            return self._refused(error.response)
        if isinstance(error, ObjectNotFound):
            return self._missing()
        return PrefectUnavailable(
            f"Prefect cannot be reached at {prefect_api_url()} ({type(error).__name__})",
            "Check PREFECT_API_URL and the server; nothing is lost meanwhile",
        )

    def _refused(self, response: httpx.Response) -> I2vError:
        status = response.status_code
        if status == HTTPStatus.NOT_FOUND:
            return self._missing()
        if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            return RunRejected(f"Prefect answers {status}", "Check PREFECT_API_KEY or PREFECT_API_AUTH_STRING")
        if status in {HTTPStatus.BAD_REQUEST, HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY}:
            return RunRejected(
                f"The deployment {self.name} does not take the parameters ({status}): {response.text[:SHOWN]}",
                "It was deployed from another version: make deploy",
            )
        return PrefectUnavailable(f"Prefect answers {status}", "Look at its log; nothing is lost meanwhile")

    def _missing(self) -> RunRejected:
        self._id = None
        return RunRejected(f"There is no deployment {self.name} at {prefect_api_url()}", "Deploy it: make deploy")

    async def watch(self) -> None:
        """Look from time to time whether Prefect and the deployment are there, until it is cancelled."""
        while True:
            with suppress(I2vError):  # health has it
                await self._asked(self._look_up())
                self._health.say(self._neighbour, self._stuck or OK)  # a run that it refused is tried again, and tells
            await asyncio.sleep(LOOK_EVERY_SECONDS)
