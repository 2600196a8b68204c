"""The result of a check: `Finding`."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

from i2v.errors import I2vError

CHECK_SECONDS = 20.0


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found, and what to do about it."""

    check: str
    level: Level
    message: str
    hint: str = ""


Check = Callable[[], Awaitable[Finding]]


async def run_check(name: str, check: Check) -> Finding:
    """Run one check within its time limit; an error becomes its finding."""
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            return await check()
    except I2vError as error:
        return Finding(name, Level.FAULT, error.message, error.hint)
    except TimeoutError:
        return Finding(name, Level.FAULT, f"no answer within {CHECK_SECONDS:g} s", "Check the address and the network")
