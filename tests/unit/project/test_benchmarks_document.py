"""benchmarks/README.md: writing one section leaves the rest unchanged."""

from __future__ import annotations

from benchmarks.report import DOCUMENT, sections, with_section

ORDER = ["start", "steps", "memory"]


def test_one_section_is_replaced() -> None:
    """Prose and other sections stay; a new section goes where the order of the benchmarks puts it."""
    text = with_section("# Benchmarks\n\nProse.\n", "memory", "## Memory\n\nold", ORDER)
    text = with_section(text, "start", "## Start", ORDER)
    text = with_section(text, "memory", "## Memory\n\nnew", ORDER)
    assert text.startswith("# Benchmarks\n\nProse.\n")
    assert list(sections(text).items()) == [("start", "## Start"), ("memory", "## Memory\n\nnew")]


def test_the_document_has_sections() -> None:
    """The shipped page can be written section by section."""
    text = DOCUMENT.read_text()
    found = sections(text)
    assert found
    assert with_section(text, "steps", found["steps"], list(found)) == text
