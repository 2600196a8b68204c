"""`docs/promises.md` names tests that are there, for each promise that is kept today."""

from __future__ import annotations

import ast
import re

from tests.support.paths import ROOT

PAGE = (ROOT / "docs/promises.md").read_text()
ROWS = re.findall(r"^\| (\d+) \| (.*) \| (.*) \|$", PAGE, re.MULTILINE)


def test_the_ten_promises_are_listed() -> None:
    """One row each, in their order."""
    assert [int(number) for number, _, _ in ROWS] == list(range(1, 11))


def test_each_file_that_is_named_holds_tests() -> None:
    """A proof that was renamed or emptied is noticed; a promise without one says that it is not built yet."""
    assert ROWS
    for number, _, proof in ROWS:
        files = re.findall(r"`((?:unit|integration|crash|pipeline)/[\w/]+\.py)`", proof)
        assert files or proof == "not built yet", f"promise {number}"
        for file in files:
            names = [
                node.name
                for node in ast.walk(ast.parse((ROOT / "tests" / file).read_text()))
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            ]
            assert [name for name in names if name.startswith("test_")], file
