"""Links in the documentation lead to files and headings that exist."""

from __future__ import annotations

import pytest

from tests.support.documents import PAGES, anchors, links
from tests.support.paths import ROOT


def _leads_nowhere(page: str, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = (ROOT / page).parent / path if path else ROOT / page
    if not target.exists():
        return True
    return bool(anchor) and anchor not in anchors(target.resolve().relative_to(ROOT.resolve()).as_posix())


@pytest.mark.parametrize("page", PAGES)
def test_links_resolve(page: str) -> None:
    """Each link within the project leads to a file and, if it has an anchor, to a heading."""
    assert [link for link in links(page) if _leads_nowhere(page, link)] == []


def test_some_links_are_found() -> None:
    """The pages hold links, pictures and anchors for the test above to check."""
    found = [link for page in PAGES for link in links(page)]
    assert "docs/README.md" in found
    assert [link for link in found if link.endswith(".webp")]
    assert [link for link in found if "#" in link]


def test_a_dead_link_is_noticed() -> None:
    """A missing file and a missing heading both count as dead."""
    assert _leads_nowhere("README.md", "docs/no-such-page.md")
    assert _leads_nowhere("README.md", "docs/settings.md#no-such-heading")
