"""The emulator's HTTP API: the vendor's four endpoints, and `/_sandbox/…` to control the emulator."""

import struct
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from sandbox.provider import contract
from sandbox.provider.contract import ApiError, envelope, error_envelope
from sandbox.provider.emulator import Emulator
from sandbox.provider.faults import Fault
from sandbox.provider.request_log import LogEntry
from sandbox.provider.tasks import Task

API = "/api/v1"
CHUNK_BYTES = 256 * 1024


class VendorApi:
    """The vendor's endpoints. Each adds what it did to the request's log entry."""

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator

    def _authorize(self, request: Request) -> None:
        if request.headers.get("authorization") != f"Bearer {self._emulator.options.api_key}":
            raise ApiError(401, "missing or invalid API key")
        model = request.path_params.get("model", contract.MODEL)
        if model != contract.MODEL:
            raise ApiError(404, f"unknown model {model!r}")

    async def submit(self, request: Request) -> Response:
        """POST /generateTask/{model}: accept a submit and return its task id."""
        entry: LogEntry = request.state.entry
        self._authorize(request)
        if not request.headers.get("content-type", "").startswith("application/json"):
            raise ApiError(400, "Content-Type must be application/json")
        submit = contract.parse_submit(await request.body())
        entry.prompt, entry.mode, entry.duration = submit.prompt, submit.mode, submit.duration
        task = self._emulator.accept(submit)
        entry.task_id, entry.billed_usd = task.id, task.billed_usd
        return JSONResponse(envelope({"taskId": task.id}))

    async def status(self, request: Request) -> Response:
        """GET /statusTask/{model}?taskId=: return a task's status, with HTTP 200 for a failed one too."""
        self._authorize(request)
        task = self._task(request, request.query_params.get("taskId", ""))
        task.statuses += 1
        expired = request.state.entry.fault == "expired_url"
        return JSONResponse(task.status_body(self._emulator.result_url(task, expired=expired)))

    async def balance(self, request: Request) -> Response:
        """GET /apikeys/current-balance: return a bare number of US dollars."""
        self._authorize(request)
        return JSONResponse(envelope(float(self._emulator.account.balance_usd)))

    async def file(self, request: Request) -> Response:
        """GET /files/{task}.mp4: return the video for a valid result URL."""
        task = self._task(request, request.path_params["task_id"])
        query = request.query_params
        if not self._emulator.result_urls.is_valid(task.id, query.get("Expires", ""), query.get("Signature", "")):
            raise ApiError(403, "the URL has expired or its signature is invalid")
        if task.video is None:
            raise ApiError(404, "no such file")
        task.downloads += 1
        length = task.video.stat().st_size
        padding = max(0, self._emulator.options.file_bytes - length)
        headers = {"content-length": str(length + padding)}
        return StreamingResponse(_chunks(task.video, padding), media_type="video/mp4", headers=headers)

    def _task(self, request: Request, task_id: str) -> Task:
        task = self._emulator.tasks.get(task_id)
        if task is None:
            raise ApiError(404, "no such task")
        entry: LogEntry = request.state.entry
        entry.task_id = task.id
        return task


class Control:
    """`/_sandbox/…`: inspect and change a running emulator over HTTP, without a key. Not part of the vendor's API."""

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator

    async def requests(self, request: Request) -> Response:
        """GET: list all log entries, or those of `?endpoint=`."""
        endpoint, log = request.query_params.get("endpoint"), self._emulator.request_log
        entries = log.find(endpoint) if endpoint else log.entries
        return JSONResponse({"entries": [entry.report() for entry in entries]})

    async def tasks(self, _: Request) -> Response:
        """GET: list all tasks, with what was billed and the balance."""
        account = self._emulator.account
        return JSONResponse(
            {
                "billed_usd": str(account.billed_usd),
                "balance_usd": str(account.balance_usd),
                "videos_rendered": self._emulator.renderer.rendered,
                "tasks": [task.report() for task in self._emulator.tasks.values()],
            }
        )

    async def reset(self, _: Request) -> Response:
        """POST: clear tasks, log, bills and changed options."""
        await self._emulator.reset()
        return JSONResponse({"reset": True})

    async def options(self, request: Request) -> Response:
        """POST a JSON object of options: change them and return all, without the API key."""
        try:
            options = self._emulator.set_options(await request.json())
        except (ValueError, TypeError) as error:
            return JSONResponse({"error": str(error)}, 400)
        return JSONResponse(options.model_dump(mode="json", exclude={"api_key"}))

    async def faults(self, request: Request) -> Response:
        """POST a `Fault` or a list: add them. DELETE: remove all. Return all and how often each was applied."""
        faults = self._emulator.faults
        if request.method == "DELETE":
            faults.scripted.clear()
        if request.method == "POST":
            try:
                document = await request.json()
                new = [Fault.model_validate(item) for item in (document if isinstance(document, list) else [document])]
            except ValueError as error:
                return JSONResponse({"error": str(error)}, 400)
            for fault in new:
                faults.add(fault)
        report = [
            {**each.fault.model_dump(mode="json", exclude_defaults=True), "hits": each.hits} for each in faults.scripted
        ]
        return JSONResponse({"faults": report})


async def _chunks(path: Path, padding: int) -> AsyncIterator[bytes]:
    """Yield the file, then an empty mp4 box as padding."""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
    if padding:
        yield (struct.pack(">I4s", max(8, padding), b"free") + bytes(padding))[:padding]


async def _error_response(_: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    return JSONResponse(error_envelope(error.status_code, error.detail), error.status_code)


def make_app(emulator: Emulator) -> Starlette:
    """Return the ASGI app of one emulator."""
    vendor, control = VendorApi(emulator), Control(emulator)
    return Starlette(
        routes=[
            Route(f"{API}/generateTask/{{model}}", vendor.submit, methods=["POST"]),
            Route(f"{API}/statusTask/{{model}}", vendor.status),
            Route(f"{API}/apikeys/current-balance", vendor.balance),
            Route("/files/{task_id}.mp4", vendor.file),
            Route("/_sandbox/requests", control.requests),
            Route("/_sandbox/tasks", control.tasks),
            Route("/_sandbox/reset", control.reset, methods=["POST"]),
            Route("/_sandbox/options", control.options, methods=["POST"]),
            Route("/_sandbox/faults", control.faults, methods=["GET", "POST", "DELETE"]),
        ],
        exception_handlers={HTTPException: _error_response},
    )
