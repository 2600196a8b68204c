"""docs/promises.md names, for each promise, tests that exist."""

from __future__ import annotations

import ast
import re

from tests.support.documents import rows
from tests.support.paths import ROOT

PROMISES = rows("docs/promises.md", "Promises")
COUNT = 11


def _tests_in(file: str) -> list[str]:
    tree = ast.parse((ROOT / "tests" / file).read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [function.name for function in functions if function.name.startswith("test_")]


def test_all_promises_are_listed() -> None:
    """The page has one row per promise, in order."""
    assert [int(number) for number, _, _ in PROMISES] == list(range(1, COUNT + 1))


def test_each_promise_names_files_that_hold_tests() -> None:
    """Each row names test files, and each of them exists and holds tests."""
    for number, _, proof in PROMISES:
        files = re.findall(r"`((?:unit|integration|crash|pipeline)/[\w/]+\.py)`", proof)
        assert files, f"promise {number} names no tests"
        assert [file for file in files if not _tests_in(file)] == []


def test_only_the_last_promise_is_proven_in_part() -> None:
    """A promise that is proven only in part says so and what is missing; no other promise may become one."""
    partly = {number: proof for number, _, proof in PROMISES if proof.startswith("partly:")}

    assert set(partly) <= {"11"}
    assert all("Not yet:" in proof for proof in partly.values())
