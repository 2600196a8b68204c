"""How the door fares, in words: what `/healthz` answers and the log tells when it changes."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal

log = logging.getLogger(__name__)
OK = "ok"
OFF = "not set"
STARTING = "starting"
Dependency = Literal["queue", "prefect", "callbacks"]


@dataclass
class Health:
    """A word on each neighbour: `ok`, `not set`, or what is wrong and what to do. No secret."""

    queue: str = OFF
    prefect: str = STARTING
    callbacks: str = OFF
    """Of the deployment that callbacks start."""
    stopping: bool = False

    @property
    def is_ready(self) -> bool:
        """Whether notifications that come now become runs."""
        return not self.stopping and self.prefect == OK and {self.queue, self.callbacks} <= {OK, OFF}

    def say(self, name: Dependency, word: str) -> None:
        """Remember how a neighbour is, and log it when it changes."""
        if word == getattr(self, name):
            return
        setattr(self, name, word)
        log.log(logging.INFO if word == OK else logging.WARNING, "%s: %s", name, word)

    def for_json(self) -> dict[str, object]:
        """What `/healthz` answers."""
        return {
            "live": True,
            "ready": self.is_ready,
            "queue": self.queue,
            "prefect": self.prefect,
            "callbacks": self.callbacks,
        }
