"""`/_sandbox/…`: look into a running emulator and change it over HTTP, without a key. No part of the vendor's API."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sandbox.provider.faults import Fault
from sandbox.synthetic_images import make_jpeg

if TYPE_CHECKING:
    from sandbox.provider.emulator import Emulator


class Control:
    """What `/_sandbox/…` answers."""

    def __init__(self, world: Emulator) -> None:
        self._world = world

    async def request_log(self, request: Request) -> Response:
        """GET: all entries, or those of `?endpoint=`."""
        endpoint = request.query_params.get("endpoint")
        entries = self._world.request_log.find(endpoint) if endpoint else self._world.request_log.entries
        return JSONResponse({"entries": [entry.report() for entry in entries]})

    async def tasks(self, _: Request) -> Response:
        """GET: all tasks, what was billed and what is left."""
        bank = self._world.bank
        return JSONResponse(
            {
                "billed_usd": str(bank.billed_usd),
                "balance_usd": str(bank.balance_usd),
                "films_made": self._world.studio.made,
                "tasks": [task.report() for task in self._world.tasks.values()],
            }
        )

    async def reset(self, _: Request) -> Response:
        """POST: forget tasks, journal, bills and changed settings."""
        await self._world.reset()
        return JSONResponse({"reset": True})

    async def settings(self, request: Request) -> Response:
        """POST a JSON object of dials; answers with all of them. The key is not shown."""
        try:
            dials = self._world.turn(await request.json())
        except (ValueError, TypeError) as error:
            return JSONResponse({"error": str(error)}, 400)
        return JSONResponse(dials.model_dump(mode="json", exclude={"api_key"}))

    async def add_faults(self, request: Request) -> Response:
        """POST one fault or a list of them, as `sandbox.provider.faults.Fault` has them."""
        try:
            document = await request.json()
            faults = [Fault.model_validate(item) for item in (document if isinstance(document, list) else [document])]
        except ValueError as error:
            return JSONResponse({"error": str(error)}, 400)
        for fault in faults:
            self._world.faults.add(fault)
        return await self.list_faults(request)

    async def list_faults(self, _: Request) -> Response:
        """GET: all scripted faults and how often each struck."""
        scripts = self._world.faults.scripts
        told = [{**script.fault.model_dump(exclude_defaults=True), "hits": script.hits} for script in scripts]
        return JSONResponse({"faults": told})

    async def clear_faults(self, request: Request) -> Response:
        """DELETE: forget all scripted faults."""
        self._world.faults.scripts.clear()
        return await self.list_faults(request)

    async def picture(self, request: Request) -> Response:
        """GET a sample JPEG, for tests of images by URL."""
        width, height, seed = (request.path_params[name] for name in ("width", "height", "seed"))
        return Response(make_jpeg(width, height, seed), media_type="image/jpeg")


def control_routes(world: Emulator) -> list[Route]:
    """The addresses of `Control`."""
    control = Control(world)
    return [
        Route("/_sandbox/journal", control.request_log),
        Route("/_sandbox/tasks", control.tasks),
        Route("/_sandbox/reset", control.reset, methods=["POST"]),
        Route("/_sandbox/settings", control.settings, methods=["POST"]),
        Route("/_sandbox/faults", control.list_faults),
        Route("/_sandbox/faults", control.add_faults, methods=["POST"]),
        Route("/_sandbox/faults", control.clear_faults, methods=["DELETE"]),
        Route("/_sandbox/pictures/{width:int}x{height:int}-{seed:int}.jpg", control.picture),
    ]
