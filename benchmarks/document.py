"""docs/benchmarks.md: what is written by hand, then a section for each benchmark, each replaced by itself.

A section begins with a comment that names it, and says when it was measured and on what. What is not measured anew
stays.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks.processes import ROOT

DOCUMENT = ROOT / "docs" / "benchmarks.md"
MARK = "<!-- measured: all below is written by `make bench` -->\n"
SECTION = re.compile(r"^<!-- bench: ([\w-]+) -->\n", re.MULTILINE)


def sections(text: str) -> dict[str, str]:
    """What is below the mark, by the benchmark's name."""
    _, *parts = SECTION.split(text.partition(MARK)[2])
    return {name: body.strip() for name, body in zip(parts[::2], parts[1::2], strict=True)}


def replaced(text: str, name: str, body: str, order: Sequence[str]) -> str:
    """The document with this section anew, in its place by `order`; what `order` does not know comes last."""
    found = {**sections(text), name: body.strip()}
    known = [each for each in order if each in found]
    rest = [each for each in found if each not in order]
    by_hand = text.partition(MARK)[0]
    return by_hand + MARK + "".join(f"\n<!-- bench: {each} -->\n\n{found[each]}\n" for each in (*known, *rest))


def keep(name: str, body: str, order: Sequence[str], document: Path = DOCUMENT) -> None:
    """Write one section."""
    before = document.read_text() if document.exists() else "# Benchmarks\n\n"
    document.write_text(replaced(before, name, body, order))
