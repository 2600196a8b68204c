"""docs/benchmarks.md: what one benchmark writes leaves all else as it was."""

from __future__ import annotations

from benchmarks.document import DOCUMENT, replaced, sections

ORDER = ["start", "steps", "memory"]


def test_one_section_is_replaced_alone() -> None:
    """What is written by hand and the other sections stay; a new one takes its place by the order of the benchmarks."""
    text = replaced("# Benchmarks\n\nBy hand.\n", "memory", "## Memory\n\nold", ORDER)
    text = replaced(text, "start", "## Start", ORDER)
    text = replaced(text, "memory", "## Memory\n\nnew", ORDER)
    assert text.startswith("# Benchmarks\n\nBy hand.\n")
    assert list(sections(text).items()) == [("start", "## Start"), ("memory", "## Memory\n\nnew")]


def test_the_document_has_such_sections() -> None:
    """The page that is shipped can be written section by section."""
    text = DOCUMENT.read_text()
    found = sections(text)
    assert found
    assert replaced(text, "steps", found["steps"], list(found)) == text
