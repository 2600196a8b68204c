"""What happened in a story, and how often each fault and each end happened in many."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


class Violation(Exception):
    """A promise was broken. `rule` names it."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(rule, message)
        self.rule = rule
        self.message = message

    def __str__(self) -> str:
        return f"[{self.rule}] {self.message}"


@dataclass
class Story:
    """The lines of one seed, and its counts."""

    lines: list[tuple[float, str, str]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    violations: list[Violation] = field(default_factory=list)

    def tell(self, at: float, who: str, what: str) -> None:
        """Add a line."""
        self.lines.append((at, who, what))

    def count(self, what: str) -> None:
        """Count a fault or an end."""
        self.counts[what] += 1

    def accuse(self, rule: str, message: str, at: float) -> None:
        """Add a broken promise, once per rule and message."""
        violation = Violation(rule, message)
        if str(violation) not in map(str, self.violations):
            self.violations.append(violation)
            self.tell(at, "!!!", str(violation))

    def text(self) -> str:
        """Return the story, one line an event."""
        return "\n".join(f"{at:10.3f}  {who:<12} {what}" for at, who, what in self.lines)
