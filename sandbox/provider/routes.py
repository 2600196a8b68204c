"""The emulator's addresses: the vendor's four, and `/_sandbox/…` for whoever runs the sandbox."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from sandbox.provider import contract
from sandbox.provider.contract import ApiError, envelope, error_envelope
from sandbox.provider.control import control_routes
from sandbox.provider.request_log import LogEntry
from sandbox.provider.tasks import Task

if TYPE_CHECKING:
    from sandbox.provider.emulator import Emulator

API = "/api/v1"
CHUNK_BYTES = 256 * 1024


class Routes:
    """The vendor's endpoints over one world. Each notes in the request's journal entry what it did."""

    def __init__(self, world: Emulator) -> None:
        self._world = world

    def _authorize(self, request: Request) -> None:
        if request.headers.get("authorization") != f"Bearer {self._world.options.api_key}":
            raise ApiError(401, "missing or invalid API key")

    async def submit(self, request: Request) -> Response:
        """POST /generateTask/{model}: take an order and answer with its task id."""
        entry: LogEntry = request.state.entry
        self._authorize(request)
        if request.path_params["model"] != contract.MODEL:
            raise ApiError(404, f"unknown model {request.path_params['model']!r}")
        if not request.headers.get("content-type", "").startswith("application/json"):
            raise ApiError(400, "Content-Type must be application/json")
        self._world.pace.admit(self._world.options.requests_per_second, self._world.options.retry_after)
        order = contract.parse_submit(await request.body())
        entry.prompt, entry.mode, entry.duration = order.prompt, order.mode, order.duration
        task = self._world.accept(order)
        entry.task_id, entry.billed_usd = task.id, task.billed_usd
        return JSONResponse(envelope({"taskId": task.id}))

    async def status(self, request: Request) -> Response:
        """GET /statusTask/{model}?taskId=: how far a task is; 200 also for a failed one."""
        self._authorize(request)
        if request.path_params["model"] != contract.MODEL:
            raise ApiError(404, f"unknown model {request.path_params['model']!r}")
        task = self._task(request, request.query_params.get("taskId", ""))
        task.statuses += 1
        over = request.state.entry.fault == "expired_url"
        return JSONResponse(task.status_body(self._world.result_url(task, over=over)))

    async def balance(self, request: Request) -> Response:
        """GET /apikeys/current-balance: a bare number of US dollars."""
        self._authorize(request)
        return JSONResponse(envelope(float(self._world.bank.balance_usd)))

    async def file(self, request: Request) -> Response:
        """GET /files/{task}.mp4: the video, for whoever has a live link."""
        task = self._task(request, request.path_params["task_id"])
        query = request.query_params
        if not self._world.may_fetch(task, query.get("Expires", ""), query.get("Signature", "")):
            raise ApiError(403, "the link is over or was never ours")
        if task.video is None:
            raise ApiError(404, "no such file")
        task.downloads += 1
        length = task.video.stat().st_size
        padding = max(0, self._world.options.file_bytes - length)
        headers = {"content-length": str(length + padding)}
        return StreamingResponse(_chunks(task.video, padding), media_type="video/mp4", headers=headers)

    def _task(self, request: Request, task_id: str) -> Task:
        task = self._world.tasks.get(task_id)
        if task is None:
            raise ApiError(404, "no such task")
        entry: LogEntry = request.state.entry
        entry.task_id = task.id
        return task


async def _chunks(path: Path, padding: int) -> AsyncIterator[bytes]:
    """The file, then an mp4 box of nothing where it is to be longer."""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
    if padding:
        yield (struct.pack(">I4s", max(8, padding), b"free") + bytes(padding))[:padding]


async def _refused(_: Request, error: Exception) -> Response:
    if not isinstance(error, ApiError):
        raise error
    headers = {} if error.retry_after is None else {"Retry-After": f"{error.retry_after:g}"}
    return JSONResponse(error_envelope(error.code, error.error), error.code, headers)


async def _http_error(_: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    return JSONResponse(error_envelope(error.status_code, error.detail), error.status_code)


def make_app(world: Emulator) -> Starlette:
    """All addresses of one world."""
    routes = Routes(world)
    return Starlette(
        routes=[
            Route(f"{API}/generateTask/{{model}}", routes.submit, methods=["POST"], name="submit"),
            Route(f"{API}/statusTask/{{model}}", routes.status, methods=["GET"], name="status"),
            Route(f"{API}/apikeys/current-balance", routes.balance, methods=["GET"], name="balance"),
            Route("/files/{task_id}.mp4", routes.file, methods=["GET"], name="file"),
            *control_routes(world),
        ],
        exception_handlers={ApiError: _refused, HTTPException: _http_error},
    )
