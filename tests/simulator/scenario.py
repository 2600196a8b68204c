"""From a seed to a plan: settings, images, who starts when, what befalls them. Nothing happens here."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

from tests.simulator.limits import LABELS, PRICE, limits, spent_before
from tests.simulator.patches import BAD_IMAGE
from tests.simulator.process import Mishap

if TYPE_CHECKING:
    from tests.simulator.models.weather import Weather

Theme = Literal["mixed", "late", "race"]
Kind = Literal["run", "reconcile", "backfill", "resubmit", "drop", "adopt", "pause", "resume", "forget"]
RENDER = ((85, 180), (85, 180), (85, 180), (85, 180), (2, 20), (2, 20), (400, 2400), (5_000, 60_000))
BY_STEM, BY_SKU = "published/{folder}{stem}.mp4", "published/{extra.sku}.mp4"
MONTHS_END = timedelta(days=21)
"""From the days of most stories to the end of their month."""
STRUCK = ("POST", "put if", "put", "delete", "status", "get", "")


@dataclass(frozen=True)
class Start:
    """A process that starts at `at` seconds."""

    at: float
    kind: Kind
    name: str
    skew: float = 0.0
    mishaps: tuple[Mishap, ...] = ()
    restart: Literal["", "same", "new"] = ""
    """Under which run id it starts again after it was killed."""
    restart_after: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Upload:
    """An image that is put, or replaced, at `at` seconds."""

    at: float
    key: str
    body: bytes
    sku: str = ""
    """Its custom column, if names of published copies depend on it."""


@dataclass(frozen=True)
class Plan:
    """Everything that a seed decides before the story starts."""

    seed: int
    theme: Theme
    """late: answers are lost and come after a person has resubmitted. race: runs start at the same time."""
    begins: datetime
    variables: dict[str, Any]
    balance: Decimal
    provider_skew: float
    s3_skew: float
    failure_rate: float
    render: tuple[tuple[int, int], ...]
    uploads: tuple[Upload, ...]
    starts: tuple[Start, ...]
    removals: tuple[float, ...]
    """When a consumer moves a video away."""
    calm_at: float
    spent_before: tuple[tuple[str, str, Decimal], ...]
    """What other runs spent in the month before: day, label and US dollars."""
    runs_once_more: bool
    is_unreachable: bool
    """Whether the provider can fetch no image."""
    has_garbage: bool
    """Whether one record and its marker cannot be read."""

    def render_seconds(self, weather: Weather) -> float:
        """Draw how long a task takes."""
        return weather.between(*self.render[int(weather.between(0, len(self.render) - 0.001))])


def draw_plan(seed: int) -> Plan:
    """Draw the plan of a seed."""
    chance = random.Random(seed)  # noqa: S311 - a story, not a secret
    begins = datetime(2026, 3, 10, 9, tzinfo=UTC) + timedelta(minutes=chance.randrange(0, 600))
    if chance.random() < 0.4:
        begins = datetime(2026, 3, 11, tzinfo=UTC) - timedelta(seconds=chance.randrange(1, 1800))
    money = random.Random(f"limits {seed}")  # noqa: S311 - draws of its own leave the other stories as they were
    at_midnight = False
    if money.random() < 0.4:
        begins += MONTHS_END
    elif at_midnight := money.random() < 0.3:  # runs that start together see it at different times
        begins = datetime(2026, 3, 11, tzinfo=UTC) - timedelta(seconds=money.uniform(0, 12))
    before = spent_before(money, begins)
    theme: Theme = chance.choice(("mixed", "mixed", "mixed", "late", "race"))
    theme = "race" if at_midnight else theme
    calm_at = 4800.0 if theme == "late" else chance.choice((1200.0, 2400.0, 4800.0))
    uploads = _uploads(chance, calm_at)
    names = random.Random(f"names {seed}")  # noqa: S311 - see above
    published, uploads = _published_as(names, uploads)
    return Plan(
        seed=seed,
        theme=theme,
        begins=begins,
        variables=_variables(chance) | limits(money, before, is_sure=at_midnight) | published,
        balance=PRICE * chance.choice((1000, 1000, 1000, 1000, 1000, 3)),
        provider_skew=chance.choice((0.0, 0.0, -20.0, 20.0)),
        s3_skew=chance.choice((0.0, 0.0, -25.0, 40.0)),
        failure_rate=chance.choice((0.0, 0.1, 0.5)),
        render=RENDER[4:7] if theme == "late" else tuple(chance.sample(RENDER, 3)),
        uploads=uploads,
        starts=tuple(
            _labeled(money, start) for start in _starts(chance, theme, calm_at, [upload.key for upload in uploads])
        )
        + _erasures(names, calm_at, [upload.key for upload in uploads]),
        removals=tuple(chance.uniform(0, calm_at) for _ in range(chance.choice((0, 0, 0, 1)))),
        calm_at=calm_at,
        spent_before=before,
        runs_once_more=chance.random() < 0.3,
        is_unreachable=chance.random() < 0.04,
        has_garbage=chance.random() < 0.08,
    )


def _published_as(names: random.Random, uploads: tuple[Upload, ...]) -> tuple[dict[str, str], tuple[Upload, ...]]:
    """Draw the template of published names; a column of few values makes images share them."""
    template = names.choice(("", "", BY_STEM, BY_SKU))
    skus = {key: names.choice(("A", "B", key[-5])) for key in dict.fromkeys(upload.key for upload in uploads)}
    if template == BY_SKU:
        uploads = tuple(replace(upload, sku=skus[upload.key]) for upload in uploads)
    return {"I2V_PUBLISH_AS": template} if template else {}, uploads


def _erasures(names: random.Random, calm_at: float, keys: list[str]) -> tuple[Start, ...]:
    """Draw whether a person has an image erased, and what befalls the command."""
    if names.random() < 0.75:
        return ()
    mishaps = (Mishap("kill", names.randrange(1, 60)),) if names.random() < 0.3 else ()
    at, options = names.uniform(0, calm_at), {"key": names.choice(keys)}
    return (Start(at, "forget", "forget", mishaps=mishaps, restart="new", restart_after=30.0, options=options),)


def _variables(chance: random.Random) -> dict[str, Any]:
    variables: dict[str, Any] = {
        "I2V_BUCKET": "b-1",
        "APIXO_API_KEY": "k",
        "I2V_DEFAULT_PROMPT": "a slow zoom",
        "I2V_CALLBACK_BASE_URL": "https://door.example",
        "I2V_CALLBACK_SECRET": "a-secret-of-the-simulator",
        "I2V_MAX_ATTEMPTS": chance.choice((1, 2, 2, 3)),
        "I2V_MAX_IN_FLIGHT": chance.choice((1, 2, 1000)),
        "I2V_MAX_CONNECTIONS": chance.choice((1, 2, 24)),
        "I2V_POLL_EVERY_SECONDS": chance.choice((10, 30, 60)),
        "I2V_POLL_DEADLINE_SECONDS": chance.choice((300, 600, 1800)),
        "I2V_SUBMIT_PATIENCE_SECONDS": chance.choice((30, 600)),
        "I2V_LEASE_SECONDS": chance.choice((300, 300, 300, 60, 20)),
        "I2V_FIRST_SUBMITS": chance.choice((0, 8, 8, 8, 2, 1)),
        "I2V_CALLBACK_PATIENCE_SECONDS": chance.choice((300, 600)),
    }
    if chance.random() < 0.35:
        variables["I2V_DAILY_CAP_USD"] = PRICE * chance.choice((1, 2, 3, 5, 8))
    return variables


def _labeled(money: random.Random, start: Start) -> Start:
    return replace(start, options={**start.options, "label": money.choice(LABELS)}) if start.kind == "run" else start


def _uploads(chance: random.Random, calm_at: float) -> tuple[Upload, ...]:
    uploads, contents = [], [f"photo {number}".encode() for number in range(chance.choice((1, 2, 4)))]
    for number in range(chance.choice((1, 2, 3, 4, 6, 8))):
        body = chance.choice(contents) if chance.random() < 0.6 else f"photo of its own {number}".encode()
        if chance.random() < 0.05:
            body = BAD_IMAGE
        at = -3600.0 if chance.random() < 0.8 else chance.uniform(0, calm_at)
        uploads.append(Upload(at, f"images/{chance.choice(('', 'cats/'))}{number}.jpg", body))
    for number in range(chance.choice((0, 0, 0, 1, 2))):
        key = chance.choice(uploads).key
        uploads.append(Upload(chance.uniform(0, calm_at), key, f"replaced {number}".encode()))
    return tuple(uploads)


def _starts(chance: random.Random, theme: Theme, calm_at: float, keys: list[str]) -> tuple[Start, ...]:
    persons = 0.7 if theme == "late" else chance.choice((0.0, 0.2, 0.5))
    kinds: list[Kind] = ["run"] * chance.choice((1, 2, 3, 4))
    kinds += ["reconcile"] * chance.choice((1, 2, 4))
    kinds += ["backfill"] * chance.choice((0, 1, 2))
    for person in ("resubmit", "resubmit", "resubmit", "adopt", "adopt", "drop"):
        kinds += [person] if chance.random() < persons else []
    starts = [_start(chance, kind, f"{kind}-{number}", theme, calm_at, keys) for number, kind in enumerate(kinds)]
    if chance.random() < 0.15:
        paused_at = chance.uniform(0, calm_at)
        starts.append(Start(paused_at, "pause", "pause"))
        starts.append(Start(min(calm_at, paused_at + chance.uniform(20, 900)), "resume", "resume"))
    return tuple(starts)


def _start(chance: random.Random, kind: Kind, name: str, theme: Theme, calm_at: float, keys: list[str]) -> Start:
    person = kind in {"resubmit", "adopt", "drop"}
    at = chance.uniform(0, calm_at)
    if not person and kind != "reconcile" and chance.random() < (0.9 if theme == "race" else 0.4):
        at = chance.choice((0.0, 0.05))
    return Start(
        at=at,
        kind=kind,
        name=name,
        skew=chance.choice((0.0, 0.0, 0.0, -5.0, 8.0)),
        mishaps=() if person else tuple(_mishap(chance) for _ in range(chance.choice((0, 1, 1, 2, 3)))),
        restart=chance.choice(("", "same", "same", "new")),
        restart_after=chance.choice((1.0, 30.0, 400.0)),
        options=_options(chance, kind, theme, keys),
    )


def _mishap(chance: random.Random) -> Mishap:
    what: Literal["kill", "freeze", "term"] = chance.choice(("kill", "kill", "freeze", "freeze", "term"))
    kind = chance.choice(STRUCK)
    most = 4 if kind == "POST" else 15 if kind else 60
    number = min(chance.randrange(1, most + 1), chance.randrange(1, most + 1))
    seconds = {"kill": 0.0, "freeze": chance.choice((20.0, 100.0, 250.0, 400.0, 900.0)), "term": 30.0}[what]
    after = chance.random() < 0.5 and kind not in {"status", ""}
    return Mishap(what, number, kind, after=after, seconds=seconds)


def _options(chance: random.Random, kind: Kind, theme: Theme, keys: list[str]) -> dict[str, Any]:
    if kind == "run":
        named = chance.sample(keys, max(1, len(keys) - 1)) if chance.random() < 0.3 else None
        return {
            "images": [f"s3://b-1/{key}" for key in dict.fromkeys(named)] if named else "s3://b-1/images/",
            "delivery": chance.choice(("poll", "callback", "callback" if theme == "late" else "poll")),
            "max_spend_usd": PRICE * chance.choice((1, 2, 4)) if chance.random() < 0.3 else None,
            "partial": chance.random() < 0.85,
            "duration": chance.choice((6, 6, 6, 10)),
        }
    if kind == "backfill":
        return {"max_spend_usd": PRICE * chance.choice((1, 3, 10)), "limit": chance.choice((1, 100))}
    return {"limit": chance.choice((1, 100))}
