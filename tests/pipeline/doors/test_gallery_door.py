"""The gallery of a real door, next to the door's other routes."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import httpx

from sandbox import Sandbox
from sandbox.prefect_server import PrefectServer
from sandbox.server import TIMEOUT_SECONDS
from tests.support.door_process import TOKEN, DoorProcess
from tests.support.flow_runs import RunFlow
from tests.support.paths import ROOT

GALLERY_TOKEN = "the-token-of-the-gallery-itself"


async def test_a_door_shows_what_a_flow_made(
    prefect_server: PrefectServer, child_env: dict[str, str], run_flow: RunFlow, sandbox: Sandbox, tmp_path: Path
) -> None:
    """A flow run's video plays in the gallery, and the door's log contains neither the token nor a signed link."""
    source = ROOT / "samples/rocket.jpg"
    sandbox.put_image("images/rocket.jpg", source.read_bytes())
    assert "1 stored" in (await run_flow()).message
    with DoorProcess(child_env | {"I2V_GALLERY_TOKEN": GALLERY_TOKEN}, tmp_path / "log") as door:
        async with httpx.AsyncClient(trust_env=False, timeout=TIMEOUT_SECONDS) as client:
            closed, page = [
                await client.get(f"{door.url}/gallery", headers={"Authorization": f"Bearer {token}"})
                for token in (TOKEN, GALLERY_TOKEN)
            ]
            [video] = map(unescape, re.findall(r'data-video="([^"]+)"', page.text))
            played = await client.get(video)
        assert door.get("/metrics").status_code == 200
        log = door.read_log()

    assert (closed.status_code, page.status_code) == (401, 200)
    assert (played.status_code, played.headers["content-type"]) == (200, "video/mp4")
    assert 'data-name="rocket.jpg"' in page.text
    assert "The gallery is on at /gallery" in log
    assert GALLERY_TOKEN not in log
    assert "X-Amz" not in log
