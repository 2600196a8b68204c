"""The test tiers (one folder each under `tests/`) and the rule that keeps each test in the right one."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest

from tests.support.paths import ROOT

TIERS = {
    "unit": "milliseconds, no server, no Prefect",
    "integration": "real sockets and the sandbox, no Prefect",
    "crash": "real processes that are killed, no Prefect",
    "pipeline": "a real Prefect server",
    "ui": "a real browser; not part of `make test`",
    "cluster": "all services of deployments/compose.yaml as processes; not part of `make test`",
    "image": "the container image, built and run; not part of `make test`",
}
BROWSER_FIXTURES = {"browser", "new_visit"}
SANDBOX_FIXTURES = {"sandbox_server", "sandbox", "provider", "settings"}


WITH_PREFECT = {"pipeline", "ui"}
OF_SOME_TIERS = (b"prefect", b"playwright")


@cache
def tier_of(path: Path) -> str:
    """Return the tier of a test file: the name of its folder under `tests/`."""
    return path.relative_to(ROOT / "tests").parts[0]


def tier_violation(item: pytest.Item) -> str | None:
    """Say why a test is in the wrong tier, or return `None`."""
    tier = tier_of(item.path)
    fixtures = set(getattr(item, "fixturenames", ()))
    packages = _imported_packages(item.path)
    if tier not in TIERS:
        return f"is in none of the tiers {', '.join(TIERS)}"
    if tier != "pipeline" and "prefect_server" in fixtures:
        return "uses the fixture prefect_server, which only tests/pipeline may"
    if tier != "pipeline" and "prefect" in packages:
        return "imports Prefect, which only tests/pipeline may"
    if tier != "ui" and (fixtures & BROWSER_FIXTURES or "playwright" in packages):
        return "drives a browser, which only tests/ui may"
    if tier == "unit" and fixtures & SANDBOX_FIXTURES:
        return f"uses the fixtures {', '.join(sorted(fixtures & SANDBOX_FIXTURES))}, which tests/unit may not"
    return None


def indirect_violation(items: Iterable[pytest.Item]) -> str | None:
    """Say that a module in a tier without Prefect imports something that imports it, which takes seconds."""
    if "prefect" in sys.modules and WITH_PREFECT.isdisjoint(tier_of(item.path) for item in items):
        return "a module imports Prefect indirectly, which only tests/pipeline may; find it with python -X importtime"
    return None


@cache
def _imported_packages(path: Path) -> set[str]:
    """Return which packages of other tiers a file may import; most files name none, and are not parsed."""
    names: list[str] = []
    code = path.read_bytes()
    if not any(package in code for package in OF_SOME_TIERS):
        return set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
    return {name.split(".")[0] for name in names}
