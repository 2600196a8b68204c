"""The door of a world: it gathers callbacks and starts a run for them, as the door and Prefect do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.simulator import works
from tests.simulator.process import Mishap
from tests.simulator.scenario import Start

if TYPE_CHECKING:
    from tests.simulator.world import World

GATHER_SECONDS = 1.0


class Door:
    """Receives callbacks."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._waiting: list[str] = []
        self.given: dict[str, list[str]] = {}
        """What each run for callbacks was given, by its id."""
        self.count = 0

    def receive(self, entry: str) -> None:
        """Take a callback."""
        self._world.tell("door", f"callback {entry[:8]}…{entry[64:]}")
        self._world.count("callback delivered")
        if not self._waiting:
            self._world.loop.call_later(GATHER_SECONDS, self._start)
        self._waiting.append(entry)

    def _start(self) -> None:
        entries, self._waiting = self._waiting, []
        self.count += 1
        name = f"collect-{self.count}"
        self.given[name] = entries
        self._world.start(self._plan(name), works.reconcile_work(entries=entries), name)

    def _plan(self, name: str) -> Start:
        chance = self._world.chance
        mishaps = (Mishap("kill", chance.randrange(1, 12)),) if chance.random() < 0.15 else ()
        return Start(0.0, "reconcile", name, mishaps=mishaps, restart=chance.choice(("", "new")), restart_after=20.0)
