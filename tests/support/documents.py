"""Read the project's Markdown pages: code blocks, code spans, tables, headings and links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from markdown_it import MarkdownIt
from markdown_it.token import Token

from tests.support.paths import ROOT

PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", "samples/*.md", "benchmarks/*.md")
    for path in ROOT.glob(pattern)
)


@dataclass(frozen=True)
class CodeBlock:
    """A fenced block; its page and line name it in a failure."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@cache
def read_page(page: str) -> str:
    """Return the page's Markdown."""
    return (ROOT / page).read_text()


@cache
def _tokens(page: str) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(read_page(page))


def _inline(page: str, kind: str) -> Iterator[Token]:
    for token in _tokens(page):
        yield from (child for child in token.children or [] if child.type == kind)


def code_blocks(*languages: str) -> list[CodeBlock]:
    """Return the fenced blocks of all pages; with `languages`, only those."""
    return [
        CodeBlock(page, token.map[0] + 1 if token.map else 0, token.info, token.content)
        for page in PAGES
        for token in _tokens(page)
        if token.type == "fence" and (not languages or token.info in languages)
    ]


def shell_lines(block: CodeBlock) -> list[str]:
    """Return the lines that a user types, each with its continuations, without comments."""
    lines = re.sub(r"\\\n\s*", " ", block.text).splitlines()
    return [line for line in lines if line.strip(" }") and not line.lstrip().startswith("#")]


def code_spans(page: str) -> list[str]:
    """Return the texts set as `code` within a page's sentences and tables."""
    return [token.content for token in _inline(page, "code_inline")]


def code_lines() -> list[str]:
    """Return every line of code and every code span of all pages."""
    blocks = [line for block in code_blocks() for line in block.text.splitlines()]
    return blocks + [span for page in PAGES for span in code_spans(page)]


def links(page: str) -> list[str]:
    """Return the targets of a page's links and pictures within the project."""
    targets = [str(token.attrs["href"]) for token in _inline(page, "link_open")]
    pictures = [str(token.attrs["src"]) for token in _inline(page, "image")]
    return [target for target in targets + pictures if "://" not in target]


def anchors(page: str) -> set[str]:
    """Return the anchors that a page's headings get on GitHub."""
    tokens = _tokens(page)
    titles = [after.content for token, after in pairwise(tokens) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def tables(page: str, heading: str) -> list[list[list[str]]]:
    """Return the tables between a heading and the next one, each as its rows without the header."""
    section = re.split(r"^#+ ", read_page(page).split(f"# {heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    found = re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE)
    return [
        [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]] for table in found
    ]


def names_in(cell: str) -> list[str]:
    """Return the texts set as `code` in a cell of a table."""
    return re.findall(r"`([^`]+)`", cell)


def rows(page: str, heading: str) -> list[list[str]]:
    """Return the rows of all tables below a heading."""
    return [row for table in tables(page, heading) for row in table]
