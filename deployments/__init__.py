"""Where it runs: what `make deploy` puts on a Prefect server, and `server.env` for who runs one.

`setup` is the command; `deploy`, `pools`, `automations` and `blocks` each bring one kind of thing to what it should be,
and say in a `SetupResult` what they did. What runs, and when, is in prefect.yaml.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Change(StrEnum):
    """What became of one thing on the server."""

    MADE = "made"
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    LEFT = "left"
    """It is not as we would make it, and a person's choice."""


class SetupResult(NamedTuple):
    """One line of what the set-up tells."""

    did: Change
    what: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.did:<10} {self.what}" + (f": {self.detail}" if self.detail else "")
