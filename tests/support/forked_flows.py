"""Flows as commands for `start_forked`: each is a process that a test kills."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from prefect import flow, runtime

from flows.generate import generate_videos

SLEEPER = "sleeper"


def generate_images(words: Sequence[str]) -> None:
    """Run the generate flow over these images."""

    async def run() -> None:
        await generate_videos(list(words), prompt="a slow zoom", return_state=True)

    asyncio.run(run())


@flow(name=SLEEPER)
async def sleep() -> None:
    """Print the run's id, and sleep."""
    print(runtime.flow_run.id, flush=True)  # noqa: T201 - for the test
    await asyncio.sleep(300)


def sleep_in_flow(_: Sequence[str]) -> None:
    """Run the sleeper."""
    asyncio.run(sleep())
