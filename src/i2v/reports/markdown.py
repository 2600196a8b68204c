"""Markdown in which the texts of others stay texts: keys, prompts and the provider's words may hold anything.

Every sign that could mean something within a line is escaped by a backslash, which both of Prefect's UIs understand;
the older one shows character references as they are written, and a picture in a link only as HTML.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from urllib.parse import quote

SIGNS = str.maketrans({sign: f"\\{sign}" for sign in "\\`*_[]<>&|~$"})
BREAK = "<br>"
"""A new line within a cell."""
JOINER = "\u200d"
"""Ties the parts of one emoji together."""
NOT_IN_CODE = "`|\\"
"""What a code span in a table cannot hold."""
SAFE_IN_LINK = ":/?&=%+~,;@-._$"


def as_text(text: str, most: int, *, keep_end: bool = False) -> str:
    """A text of at most so many characters on one line, to be read as it is; `keep_end` cuts in the middle."""
    return _shown(_cut(_visible(text), most, keep_end=keep_end))


def as_code(text: str) -> str:
    """A command to copy; one that no code span can hold stays a text."""
    if not text or text != _visible(text).strip() or any(sign in text for sign in NOT_IN_CODE):
        return _shown(_visible(text))
    return f"`{text}`"


def as_link(label: str, url: str) -> str:
    """A link; the label is markdown already."""
    return f"[{label}]({quote(url, safe=SAFE_IN_LINK)})"


def as_picture(url: str) -> str:
    """A picture without a title."""
    return "!" + as_link("", url)


def as_linked_image(url: str, target: str, width: int) -> str:
    """A picture of so many pixels that leads to `target`."""
    source, leads_to = (escape(quote(each, safe=SAFE_IN_LINK)) for each in (url, target))
    return f'<a href="{leads_to}"><img src="{source}" width="{width}"></a>'


def as_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table whose cells are markdown already."""
    return [_row(head), _row(["---"] * len(head)), *map(_row, rows)]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _visible(text: str) -> str:
    """One line: what cannot be seen, or would turn the line around, is shown as `\ufffd`."""
    return "".join(
        sign if sign.isprintable() or sign == JOINER else " " if sign.isspace() else "\ufffd" for sign in text
    )


def _cut(text: str, most: int, *, keep_end: bool) -> str:
    if len(text) <= most:
        return text
    end = most * 2 // 3 if keep_end else 0
    return f"{text[: most - end - 1]}…{text[len(text) - end :]}"


def _shown(text: str) -> str:
    return text.strip().translate(SIGNS)
