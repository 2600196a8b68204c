"""Benchmarks that are scripts of their own and end with one JSON object: what it holds, as a table."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from benchmarks.processes import ROOT
from benchmarks.table import Cell, Table


def run(name: str, *arguments: str) -> list[Table]:
    """Run it and tell.

    Raises:
        RuntimeError: it failed; carries the end of what it said.
    """
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name} ended with {done.returncode}:\n{done.stdout[-1000:]}\n{done.stderr[-2000:]}")
    called = " ".join(["python -m", f"benchmarks.{name}", *arguments])
    return [*tables(last_object(done.stdout), name.replace("_", " "), f"`{called}`")]


def tables(found: dict[str, Any], title: str, notes: str) -> Iterator[Table]:
    """All that is said once, and then a table for each list of alike."""
    lists = {name: value for name, value in found.items() if value and isinstance(value, list)}
    once = {name: value for name, value in found.items() if name not in lists}
    yield Table(title.capitalize(), ("", "measured"), [*rows(once)], notes)
    for name, items in lists.items():
        whole = [dict(rows(item)) if isinstance(item, dict) else {name: str(item)} for item in items]
        head = list(dict.fromkeys(column for item in whole for column in item))
        yield Table(
            f"{title.capitalize()}: {name}", head, [[item.get(column, "") for column in head] for item in whole]
        )


def last_object(text: str) -> dict[str, Any]:
    """The JSON object that a text ends with."""
    start = 0 if text.startswith("{") else text.rindex("\n{") + 1
    found: dict[str, Any] = json.loads(text[start:])
    return found


def rows(found: dict[str, Any], before: str = "") -> Iterator[tuple[str, Cell]]:
    """Each value with the names that lead to it."""
    for name, value in found.items():
        path = f"{before}{name.replace('_', ' ')}"
        if isinstance(value, dict):
            yield from rows(value, f"{path}: ")
        else:
            yield path, value if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
