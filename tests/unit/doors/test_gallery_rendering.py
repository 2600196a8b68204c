"""The gallery's pages render hostile names, prompts, reasons and manifests as plain text."""

from __future__ import annotations

import json
import shlex
from datetime import UTC, date, datetime
from decimal import Decimal
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from doors.gallery.details import Details, Facts, Manifest
from doors.gallery.filters import Cursor, Filters
from doors.gallery.listing import Card, GalleryPage, Links
from doors.gallery.rendering import PageRenderer
from i2v.advised_commands import run_arguments
from i2v.ledger.job import JobState
from i2v.reports.advice import advise
from i2v.reports.recent import RecentItem
from i2v.reports.run_report import Outcome
from i2v.request import Mode
from i2v.settings import Settings

NOW = datetime(2026, 11, 22, 14, 3, tzinfo=UTC)
RENDERER = PageRenderer("bucket")
SIGNED = "https://s3.example/b/videos/a?X-Amz-Signature=1&X-Amz-Date=2"
HOSTILE = (
    "</script><script>alert(1)</script>",
    '" onerror=alert(1) x="\'><img src=x onerror=alert(1)>',
    "javascript:alert(1)",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;b&gt; &amp;quot; &#34;",
    "<!-- ]]> --> </title></textarea></style>",
    "cats/\u202egpj.exe \ud800 \x00 \u2028",
)


class ParsedPage(HTMLParser):
    """A parsed page: its elements with their attribute names, its texts, its links and its attribute values."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.shape: list[tuple[str, ...]] = []
        self.texts: list[str] = []
        self.links: list[str] = []
        self.values: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Record it."""
        self.shape.append((tag, *(name for name, _ in attrs)))
        self.values += [value or "" for _, value in attrs]
        self.links += [
            value or "" for name, value in attrs if name in {"href", "src", "action", "data-video", "poster"}
        ]

    def handle_endtag(self, tag: str) -> None:
        """Record it."""
        self.shape.append((f"/{tag}",))

    def handle_data(self, data: str) -> None:
        """Record it."""
        self.texts.append(data)


def _card(text: str, outcome: Outcome, job: str | None = None) -> Card:
    item = RecentItem.model_construct(
        image=text, outcome=outcome, at=NOW, job=job, mode=Mode.PRO, duration=6, reason=text, video=None
    ).model_copy(update={"again": run_arguments(text)})
    links = Links(SIGNED, SIGNED) if outcome is Outcome.STORED else None
    return Card(Cursor("9999999999999-run.json", 1), item, text, links, None, advise(item, None))


def _listing_page(text: str) -> ParsedPage:
    cards = [_card(text, outcome) for outcome in (Outcome.STORED, Outcome.REFUSED)] + [
        _card(text, Outcome.FAILED, "a" * 64)
    ]
    listing = GalleryPage(cards, folders={text}, unreadable=[text])
    page = RENDERER.render(
        "listing", media=SIGNED, page=listing, filters=Filters(folder=text), after=None, errors=[text], images=text
    )
    return ParsedPage(bytes(page.body).decode())


def _item_page(text: str) -> ParsedPage:
    facts: Facts = {text: text, "task id": text}
    return _item_page_of(Details(_card(text, Outcome.FAILED), text, facts, [text], {"sku": text}))


def _item_page_of(details: Details) -> ParsedPage:
    return ParsedPage(bytes(RENDERER.render("item", run_url=None, media=SIGNED, details=details).body).decode())


def _harmless(text: str) -> str:
    """Return a harmless text of the same length, with the same folders and words."""
    return "".join(letter if letter in "/ " else "x" for letter in text)


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("read", [_listing_page, _item_page])
def test_hostile_text_stays_text(read: Any, text: str) -> None:
    """A key, prompt or reason adds no element or attribute, is shown verbatim, and is never used as a URL."""
    page = read(text)
    assert page.shape == read(_harmless(text)).shape
    expected = text.encode(errors="replace").decode()
    assert expected in "".join(page.texts)
    assert expected in page.values
    assert all(link.startswith(("/gallery", "#", "https://s3.example/")) for link in page.links)


@given(st.text(min_size=1, max_size=60))
@example("'\"><")
def test_any_text_stays_text(text: str) -> None:
    """An arbitrary text adds no element or attribute and is never used as a URL."""
    page = _listing_page(text)
    assert page.shape == _listing_page(_harmless(text)).shape
    assert all(link.startswith(("/gallery", "#", "https://s3.example/")) for link in page.links)


def test_pages_load_nothing_from_other_hosts() -> None:
    """Pages allow no inline scripts, no host but the one of the signed links, no frames, no referrer and no caching."""
    headers = RENDERER.render("error", media=SIGNED, title="t", message="m").headers
    policy = dict(part.strip().partition(" ")[::2] for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert (policy["img-src"], policy["media-src"]) == ("'self' https://s3.example", "https://s3.example")
    assert policy["frame-ancestors"] == "'none'"
    assert headers["cache-control"] == "no-store"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-content-type-options"] == "nosniff"
    assert not any(name in shape for shape in _listing_page("a").shape for name in ("style", "onclick", "onerror"))


@given(
    st.builds(
        Filters,
        folder=st.text(st.characters(exclude_categories=["Cs"]), max_size=30).map(lambda text: text.strip("/")),
        mode=st.none() | st.sampled_from(Mode),
        day=st.none() | st.dates(date(2020, 1, 1), date(2199, 12, 31)),
        outcome=st.none() | st.sampled_from(Outcome),
        column=st.text(st.characters(exclude_categories=["Cs"]), max_size=30).map(str.strip),
    ),
    st.none() | st.builds(Cursor, st.from_regex(r"\A[0-9]{13}-[^/~\n]{1,40}\.json\Z"), st.integers(0, 10**9 - 1)),
)
def test_a_url_holds_the_whole_view(filters: Filters, after: Cursor | None) -> None:
    """Filters and cursor survive the round trip through a URL."""
    query = dict(parse_qsl(urlsplit(filters.href(after)).query))
    assert Filters.parse(query) == filters
    assert Cursor.parse(query.get("after", "")) == after
    if after:
        assert Cursor.parse(unquote(after.href.rpartition("/")[2])) == after


@pytest.mark.parametrize("column", ["sku=A-1", "SKU = A-1", "sku", "sku=", "sku=A", "campaign=A-1", "=A-1"])
def test_a_custom_column_selects_results(column: str) -> None:
    """A name alone matches any value, and with a value only that one; names are in lower case."""
    item = _card("a.jpg", Outcome.STORED).item.model_copy(update={"extra": {"sku": "A-1"}})
    expected = column in {"sku=A-1", "SKU = A-1", "sku"}
    assert Filters.parse({"column": column}).match(item, Settings(bucket="bucket")) is expected
    assert not Filters(column=column).match(_card("a.jpg", Outcome.STORED).item, Settings(bucket="bucket"))


@given(st.dictionaries(st.sampled_from(["folder", "mode", "day", "outcome"]), st.text(max_size=50)))
@example({"mode": " "})
@example({"day": "9999-12-31"})
@example({"day": "0001-01-01"})
def test_an_invalid_filter_is_reported(query: dict[str, str]) -> None:
    """Each invalid value in a URL is reported and ignored."""
    found = Filters.parse(query)
    first, last = found.page_range
    assert first < last
    wrong = [name for name in ("mode", "day", "outcome") if query.get(name, "").strip() and not getattr(found, name)]
    assert len(found.errors) == len(wrong)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | st.datetimes().map(str),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELDS = [*Manifest.model_fields, "image", "request", "video", "at", "etag"]


@given(st.dictionaries(st.sampled_from(FIELDS), JSON | st.dictionaries(st.sampled_from(FIELDS), JSON), max_size=6))
@example({"cost_usd": 1e300, "video": {"seconds": 1e300}})
@example({"stored_at": "9999-12-31T23:59:59-12:00", "rendering_ms": 10**400})
@example({"submitted_at": "2026-11-22T14:03:00"})
def test_an_unusual_manifest_is_shown_or_rejected(document: dict[str, Any]) -> None:
    """An arbitrary JSON document is shown as a manifest or fails validation, and raises nothing else."""
    try:
        manifest = Manifest.model_validate_json(json.dumps(document))
    except ValidationError:
        return
    facts = manifest.facts(Decimal(1))
    assert _item_page_of(Details(_card("a", Outcome.STORED), None, facts)).shape.count(("dt",)) == sum(
        bool(value) for value in facts.values()
    )


@pytest.mark.parametrize("outcome", [Outcome.REFUSED, Outcome.FAILED, Outcome.UNKNOWN])
@pytest.mark.parametrize("state", [None, *JobState])
def test_every_failure_has_advice(outcome: Outcome, state: JobState | None) -> None:
    """Each outcome and job state has a sentence and a command, in which an image's key is quoted."""
    for job in ("a" * 64, None):
        advice = advise(_card("$(rm -rf ~)'", outcome, job).item, state)
        assert advice
        assert advice.text
        is_named = state in {JobState.CLAIMED, JobState.SUBMITTED}
        expected = "reconcile" if job and is_named else "$(rm -rf ~)'"
        assert {expected, "a" * 12} & set(shlex.split(advice.command))
