"""`/_sandbox/…`: inspect and change a running emulator over HTTP, without a key. Not part of the vendor's API."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sandbox.provider.faults import Fault

if TYPE_CHECKING:
    from sandbox.provider.emulator import Emulator


class Control:
    """The handlers of `/_sandbox/…`."""

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

    async def add_faults(self, request: Request) -> Response:
        """POST one `sandbox.provider.faults.Fault` or a list of them."""
        try:
            document = await request.json()
            faults = [Fault.model_validate(item) for item in (document if isinstance(document, list) else [document])]
        except ValueError as error:
            return JSONResponse({"error": str(error)}, 400)
        for fault in faults:
            self._emulator.faults.add(fault)
        return await self.list_faults(request)

    async def list_faults(self, _: Request) -> Response:
        """GET: list all scripted faults and how often each was applied."""
        scripted = self._emulator.faults.scripted
        faults = [{**each.fault.model_dump(exclude_defaults=True), "hits": each.hits} for each in scripted]
        return JSONResponse({"faults": faults})

    async def clear_faults(self, request: Request) -> Response:
        """DELETE: remove all scripted faults."""
        self._emulator.faults.scripted.clear()
        return await self.list_faults(request)


def control_routes(emulator: Emulator) -> list[Route]:
    """Return the routes of `Control`."""
    control = Control(emulator)
    return [
        Route("/_sandbox/requests", control.requests),
        Route("/_sandbox/tasks", control.tasks),
        Route("/_sandbox/reset", control.reset, methods=["POST"]),
        Route("/_sandbox/options", control.options, methods=["POST"]),
        Route("/_sandbox/faults", control.list_faults),
        Route("/_sandbox/faults", control.add_faults, methods=["POST"]),
        Route("/_sandbox/faults", control.clear_faults, methods=["DELETE"]),
    ]
