"""How often, and how, requests fail or take long. Each seed has its own weather; it becomes calm at the end."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.simulator.scenario import Theme
    from tests.simulator.story import Story

RATES = (0.0, 0.002, 0.01, 0.03, 0.1)
CONDITIONAL = ("fails", "lost", "lost", "late", "busy", "repeated", "slow", "slow answer")
PLAIN_WRITE = ("fails", "lost", "late", "late", "slow", "slow answer")
READ = ("fails", "fails", "slow answer")
SUBMIT = (
    ("429", 6),
    ("envelope 5xx", 3),
    ("no connection", 4),
    ("400", 2),
    ("content", 2),
    ("account", 1),
    ("fail code", 3),
    ("lost, paid", 8),
    ("lost, not paid", 5),
    ("late answer", 8),
    ("timeout, paid", 4),
)
STATUS = ("bad answer", "busy", "no connection", "slow", "unknown state")
_KINDS, _WEIGHTS = zip(*SUBMIT, strict=True)
_LATE_WEIGHTS = tuple(8 if "paid" in kind or "late" in kind else 1 for kind in _KINDS)


class Weather:
    """Draws each request's fate."""

    def __init__(self, chance: random.Random, story: Story, theme: Theme) -> None:
        self._chance = chance
        self._story = story
        self.s3_rate = chance.choice(RATES)
        self.submit_rate = chance.choice((0.0, 0.1, 0.3, 0.6))
        self._submit_weights = _LATE_WEIGHTS if theme == "late" else _WEIGHTS
        self.status_rate = chance.choice((0.0, 0.02, 0.2))
        self.file_rate = chance.choice((0.0, 0.05, 0.3))
        self.door_rate = chance.choice((0.0, 0.1, 0.5))
        self._speed = chance.choice((0.01, 0.05, 0.3))

    def calm(self) -> None:
        """Let nothing fail from now on."""
        self.s3_rate = self.submit_rate = self.status_rate = self.file_rate = self.door_rate = 0.0
        self._speed = 0.01

    def happens(self, rate: float, what: str) -> bool:
        """Draw whether something happens, and count it."""
        if rate and self._chance.random() < rate:
            self._story.count(what)
            return True
        return False

    def pick(self, *what: str) -> str:
        """Choose one, evenly."""
        return self._chance.choice(what)

    def between(self, low: float, high: float) -> float:
        """Return a duration."""
        return self._chance.uniform(low, high)

    def s3_fault(self, kind: str) -> str | None:
        """Return how an S3 request fails, or `None`."""
        if not self.s3_rate or self._chance.random() >= self.s3_rate:
            return None
        kinds = CONDITIONAL if kind == "put if" else PLAIN_WRITE if kind in {"put", "delete", "copy"} else READ
        fault = self._chance.choice(kinds)
        self._story.count(f"S3 {fault}")
        return fault

    def s3_delay(self) -> float:
        """Return half the time of an S3 request."""
        return self._chance.random() * self._speed

    def slow_seconds(self) -> float:
        """Return how long a slow request takes: seconds, sometimes minutes."""
        return self._chance.choice((2.0, 10.0, 45.0, 90.0, 200.0)) * self._chance.uniform(0.5, 1.5)

    def late_seconds(self) -> float:
        """Return how long after its sender gave up a write is done."""
        return self._chance.choice((1.0, 10.0, 60.0, 200.0)) * self._chance.uniform(0.2, 1.5)

    def submit_fault(self) -> str | None:
        """Return how a submit ends, or `None` for a task id."""
        if not self.submit_rate or self._chance.random() >= self.submit_rate:
            return None
        return str(self._chance.choices(_KINDS, self._submit_weights)[0])
