"""Where i2v runs: what `make deploy` sets up on a Prefect server, and `server.env` for self-hosted servers.

`setup` is the command. `sync_deployments`, `work_pool`, `automations` and `blocks` each set up one kind of object, and
return a `SetupResult` per object. What runs, and when, is in prefect.yaml.
"""

from enum import StrEnum
from typing import NamedTuple


class Change(StrEnum):
    """What the setup did with an object on the server."""

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    KEPT = "kept"
    """It differs from our configuration because a user chose so."""


class SetupResult(NamedTuple):
    """One line of the setup's output."""

    change: Change
    target: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.change:<10} {self.target}" + (f": {self.detail}" if self.detail else "")
