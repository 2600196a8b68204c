"""Markdown with untrusted text: keys, prompts and the provider's messages may contain anything.

Special characters are escaped with a backslash, which both of Prefect's UIs support. The V1 UI shows character
references literally, and needs HTML for an image inside a link.
"""

from collections.abc import Iterable, Sequence
from decimal import Decimal
from html import escape
from urllib.parse import quote

from i2v.money import Charges, money_text

ESCAPES = str.maketrans({char: f"\\{char}" for char in "\\`*_[]<>&|~$"})
BREAK = "<br>"
"""A line break in a cell."""
NO_BREAK_SPACE = "\u00a0"
WORD_JOINER = "\u2060"
"""Has no width. Prefect's raw view marks a zero-width space with an image, but not this character."""
EMOJI_JOINER = "\u200d"
NOT_IN_CODE = "`|\\"
"""Characters that a code span in a table cannot contain."""
SAFE_IN_LINK = ":/?&=%+~,;@-._$"


def as_text(text: str, max_chars: int, *, keep_end: bool = False) -> str:
    """Return the text escaped, on one line and truncated: at its end, or in the middle with `keep_end`."""
    return _escaped(_truncated(_printable(text), max_chars, keep_end=keep_end))


def as_usd(amount: Decimal) -> str:
    """Return an amount of US dollars; `$` is escaped."""
    return _escaped(f"{'-' if amount < 0 else ''}${money_text(abs(amount))}")


def as_charges(charges: Charges) -> str:
    """Return what was charged and possibly charged; `$` is escaped."""
    return _escaped(str(charges))


def as_code(text: str) -> str:
    """Return a code span, or escaped text if a code span cannot contain it."""
    if not text or text != _printable(text).strip() or any(char in text for char in NOT_IN_CODE):
        return _escaped(_printable(text))
    return f"`{text}`"


def as_link(label: str, url: str) -> str:
    """Return a link; `label` is markdown."""
    return f"[{label}]({quote(url, safe=SAFE_IN_LINK)})"


def as_linked_image(url: str, target: str, width: int) -> str:
    """Return an image `width` pixels wide that links to `target`."""
    return _linked_image(url, target, f'width="{width}"')


def as_image_cell(url: str, target: str, width: int) -> str:
    """Return the same as a table cell, next to which the other cells' text starts at the top of the row.

    Prefect's V2 UI aligns the cells of a row by their baselines, and an image is a block with large margins: the other
    cells' text would start below it. An empty first line and a floating image give the cell the baseline of that line.
    """
    return WORD_JOINER + _linked_image(url, target, f'align="left" width="{width}"')


def _linked_image(url: str, target: str, attributes: str) -> str:
    source, href = (escape(quote(each, safe=SAFE_IN_LINK)) for each in (url, target))
    return f'<a href="{href}"><img src="{source}" {attributes}></a>'


def as_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table whose cells are markdown."""
    return [_row(head), _row(["---"] * len(head)), *map(_row, rows)]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _printable(text: str) -> str:
    """Return the text on one line; invisible characters and those that change its direction become `\ufffd`."""
    return "".join(
        char if char.isprintable() or char == EMOJI_JOINER else " " if char.isspace() else "\ufffd" for char in text
    )


def _truncated(text: str, max_chars: int, *, keep_end: bool) -> str:
    if len(text) <= max_chars:
        return text
    end = max_chars * 2 // 3 if keep_end else 0
    return f"{text[: max_chars - end - 1]}…{text[len(text) - end :]}"


def _escaped(text: str) -> str:
    return text.strip().translate(ESCAPES)
