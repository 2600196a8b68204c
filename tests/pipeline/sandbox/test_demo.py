"""`KEEP=1 make demo` on real services: its output, its URLs, and that it leaves nothing running."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from i2v.media.videos import examine_video
from sandbox.demo import ENVIRONMENT
from sandbox.server import TIMEOUT_SECONDS
from tests.support.paths import ROOT

START_AND_TWO_RUNS_SECONDS = 400
STOP_SECONDS = 40
STEP = re.compile(r"^ *\+[\d.]+ s  (submitted|stored|refused) +(\S+): ", re.MULTILINE)
NAMES = ["astronaut.png", "coffee.jpg", "deep-field.jpg", "rocket.jpg"]


@pytest.fixture
async def demo() -> AsyncIterator[Process]:
    """Start the demo in its own session, without the environment's Prefect settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sandbox.demo"),
        cwd=ROOT,
        env=kept | {"KEEP": "1"},
        stdout=PIPE,
        stderr=STDOUT,
        start_new_session=True,
    )
    yield child
    with suppress(ProcessLookupError):  # it has exited, and its return code is not read yet
        os.killpg(child.pid, signal.SIGKILL)
    await child.wait()


async def _output_until(demo: Process, last: str) -> str:
    assert demo.stdout is not None
    lines: list[str] = []
    async with asyncio.timeout(START_AND_TWO_RUNS_SECONDS):
        while not (lines and last in lines[-1]):
            line = (await demo.stdout.readline()).decode()
            assert line, "".join(lines)
            lines.append(line)
    return "".join(lines)


def _steps(act: str) -> list[tuple[str, str]]:
    """Return the printed steps of each image, sorted."""
    return sorted(STEP.findall(act))


def _ends(act: str) -> Counter[str]:
    """Count the outcomes of the runs: a slow upload may start two of them."""
    ends = re.findall(r"s  the run finished, Completed: (.+)$", act, re.MULTILINE)
    counts: Counter[str] = Counter()
    for count, word in re.findall(r"(\d+) ([a-z]+)", "\n".join(ends)):
        counts[word] += int(count)
    return counts


def _is_open(url: str) -> bool:
    parts = httpx.URL(url)
    with socket.socket() as probe:
        return probe.connect_ex((parts.host, parts.port or 80)) == 0


@pytest.mark.timeout(START_AND_TWO_RUNS_SECONDS + 2 * STOP_SECONDS)
async def test_the_demo_makes_videos_of_uploads_and_keeps_running(demo: Process) -> None:
    """Four videos are stored, one image is refused, the second upload is free, all URLs work, and Ctrl-C stops it."""
    output = await _output_until(demo, "i2v jobs")
    assert "its videos are synthetic" in output.replace("\n", " ")

    _, first, second = re.split("^Upload the photographs|^Upload them again", output, flags=re.MULTILINE)
    steps = [(step, name) for step in ("stored", "submitted") for name in NAMES]
    assert _steps(first) == [("refused", "cat-too-small.png"), *steps]
    assert (_ends(first), _ends(second)) == ({"stored": 4, "refused": 1}, {"cached": 4, "refused": 1})
    assert _steps(second) == []
    assert all(
        re.search(r's  the door started flow run ".+" with [1-5] images?$', act, re.MULTILINE)
        for act in (first, second)
    )
    assert "First upload:  4 videos billed, $0.768\nSecond upload: $0.00\n" in output

    copies = re.findall(r"^(\S+\.mp4)$", output, re.MULTILINE)
    assert [Path(copy).stem for copy in copies] == [Path(name).stem for name in NAMES]
    assert {examine_video(ROOT / copy, "")[0].seconds for copy in copies} == {6.0}

    env = dict(re.findall(r"^export (\w+)=(.*)$", (ROOT / ENVIRONMENT).read_text(), re.MULTILINE))
    gallery, token = re.findall(r"^gallery +(\S+) +token: (\w+)$", output, re.MULTILINE)[-1]
    async with httpx.AsyncClient(
        trust_env=False, timeout=TIMEOUT_SECONDS, headers={"Authorization": f"Bearer {token}"}
    ) as client:
        shown = (await client.get(gallery)).text
        ui_settings = await client.get(env["PREFECT_API_URL"].replace("/api", "/ui-settings"))
    assert [name for name in (*NAMES, "cat-too-small.png") if name not in shown] == []
    assert ui_settings.json()["api_url"] == env["PREFECT_API_URL"]

    demo.send_signal(signal.SIGINT)
    async with asyncio.timeout(STOP_SECONDS):
        assert await demo.wait() == 130
    servers = (env["PREFECT_API_URL"], env["APIXO_BASE_URL"], env["AWS_ENDPOINT_URL"], gallery)
    assert [server for server in servers if _is_open(server)] == []
