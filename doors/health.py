"""`Health`: the state of the door's dependencies, which `/healthz` returns and the log reports when it changes."""

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
    """The status of each dependency: `ok`, `not set`, or what is wrong and what to do. Never a secret."""

    queue: str = OFF
    prefect: str = STARTING
    callbacks: str = OFF
    """The deployment that callbacks start."""
    stopping: bool = False

    @property
    def is_ready(self) -> bool:
        """Whether new notifications become flow runs."""
        return not self.stopping and self.prefect == OK and {self.queue, self.callbacks} <= {OK, OFF}

    def update(self, name: Dependency, status: str) -> None:
        """Set the status of a dependency, and log it if it changed."""
        if status == getattr(self, name):
            return
        setattr(self, name, status)
        log.log(logging.INFO if status == OK else logging.WARNING, "%s: %s", name, status)
