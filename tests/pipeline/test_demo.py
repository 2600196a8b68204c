"""`KEEP=1 make demo`, run for real: what a person sees, what can be looked at, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from i2v.videos import measure_video

ROOT = Path(__file__).parents[2]
START_AND_TWO_RUNS_SECONDS = 100
STOP_SECONDS = 15
ROW = re.compile(r"^images/(\S+) +(stored|cached|refused) .*?( \$[\d.]+)?$", re.MULTILINE)


@pytest.fixture
async def demo() -> AsyncIterator[Process]:
    """The demo that stays up, in a session of its own and with nobody's Prefect."""
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
    if child.returncode is None:
        os.killpg(child.pid, signal.SIGKILL)
        await child.wait()


async def _said_until(demo: Process, last: str) -> str:
    assert demo.stdout is not None
    lines: list[str] = []
    async with asyncio.timeout(START_AND_TWO_RUNS_SECONDS):
        while not (lines and last in lines[-1]):
            line = (await demo.stdout.readline()).decode()
            assert line, "".join(lines)
            lines.append(line)
    return "".join(lines)


def _rows(said: str) -> list[tuple[str, str, str]]:
    return sorted((name, outcome, cost.strip()) for name, outcome, cost in ROW.findall(said))


def _is_open(url: str) -> bool:
    parts = httpx.URL(url)
    with socket.socket() as probe:
        return probe.connect_ex((parts.host, parts.port or 80)) == 0


async def test_demo_animates_the_samples_once_and_stays_up(demo: Process) -> None:
    """Four are stored and one is refused, the same again is free, all of it can be looked at, and Ctrl-C ends it."""
    said = await _said_until(demo, "export PREFECT_HOME=")
    assert "its videos are synthetic" in said.replace("\n", " ")

    first, second = said.split("The same again")
    refused = ("cat-too-small.png", "refused", "")
    names = ["astronaut.png", "coffee.jpg", "deep-field.jpg", "rocket.jpg"]
    assert _rows(first) == sorted([refused, *((name, "stored", "$0.192") for name in names)])
    assert _rows(second) == sorted([refused, *((name, "cached", "") for name in names)])
    assert "First run:  4 videos billed, $0.768\nSecond run: $0.00\n" in said

    copies = re.findall(r"^(\S+\.mp4)$", said, re.MULTILINE)
    assert [Path(copy).stem for copy in copies] == [Path(name).stem for name in names]
    assert {measure_video(ROOT / copy).seconds for copy in copies} == {6.0}

    env = dict(re.findall(r"^export (\w+)=(.*)$", said, re.MULTILINE))
    [run, _] = re.findall(r"^In Prefect: \S+/flow-run/(\S+)$", said, re.MULTILINE)
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"{env['PREFECT_API_URL']}/flow_runs/{run}")
        told_to_ui = await client.get(env["PREFECT_API_URL"].replace("/api", "/ui-settings"))
    assert answer.json()["state"]["message"].startswith("4 stored")
    assert told_to_ui.json()["api_url"] == env["PREFECT_API_URL"]

    demo.send_signal(signal.SIGINT)
    async with asyncio.timeout(STOP_SECONDS):
        assert await demo.wait() == 130
    servers = (env["PREFECT_API_URL"], env["APIXO_BASE_URL"], env["AWS_ENDPOINT_URL"])
    assert [server for server in servers if _is_open(server)] == []
