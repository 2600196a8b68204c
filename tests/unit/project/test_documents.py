"""What the documents say is what there is: deployments, commands, variables, prices, exit codes, states, links."""

from __future__ import annotations

import re
import signal
from decimal import Decimal
from typing import Any

import pytest
import typer
import yaml

from i2v.cli.app import app
from i2v.cli.run import EPILOG
from i2v.errors import I2vError, Stopped, UsageError
from i2v.ledger.job import ALLOWED_TRANSITIONS, JobState
from i2v.pricing import PRICES_USD
from i2v.settings import Settings
from tests.support.paths import ROOT
from tests.unit.project.test_structure import RINGS

DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/architecture.md",
    "docs/benchmarks.md",
    "docs/callbacks.md",
    "docs/deploying.md",
    "docs/doors.md",
    "docs/errors.md",
    "docs/events.md",
    "docs/gallery.md",
    "docs/licences.md",
    "docs/monitoring.md",
    "docs/scaling.md",
    "samples/README.md",
)
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text()
CODE = re.compile(r"```\w*\n(.*?)```|`([^`\n]+)`", re.DOTALL)
NOT_OURS = {
    "PREFECT_API_DATABASE_CONNECTION_URL",
    "PREFECT_API_URL",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY",
    "PREFECT_HOME",
    "PREFECT_MESSAGING_BROKER",
    "PREFECT_MESSAGING_CACHE",
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE",
    "PREFECT_SERVER_DOCKET_URL",
    "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING",
    "PREFECT_WORKER_QUERY_SECONDS",
}


def _code(text: str) -> list[str]:
    """Every line of code and every word set as code."""
    return [line for block, span in CODE.findall(text) for line in (block or span).splitlines()]


def _all_code() -> list[str]:
    return [line for name in DOCUMENTS for line in _code((ROOT / name).read_text())]


def _commands(command: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], set[str]]:
    """Each command from this one on, with its options."""
    found = {path: {option for param in command.params for option in param.opts}}
    for name, inner in getattr(command, "commands", {}).items():
        found |= _commands(inner, (*path, name))
    return found


COMMANDS = _commands(typer.main.get_command(app))


def _rows(text: str, heading: str) -> list[list[str]]:
    """The cells of the table below a heading, without its own head."""
    section = re.split(r"^#+ ", text.split(f"# {heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_readme_lists_the_deployments() -> None:
    """The README's table is prefect.yaml: each deployment, what it runs, and whether it runs by itself."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    deployments = config["deployments"]
    assert deployments

    listed = {
        (name.strip("`"), runs.strip("`"), when.startswith(("daily", "every")))
        for when, name, runs in _rows(README, "What runs when")
    }
    assert listed == {(each["name"], each["entrypoint"], bool(each.get("schedules"))) for each in deployments}


def test_readme_lists_the_prices() -> None:
    """The README's prices are those that are paid."""
    rows = _rows(README, "What it costs")
    assert rows

    listed = {"-".join(re.findall(r"^\w+|\d+(?= s)", video)): Decimal(price.strip("$")) for video, price in rows}
    assert listed == PRICES_USD


def test_readme_lists_the_exit_codes() -> None:
    """The README's exit codes are those of the errors and of `i2v run --help`."""
    listed = {int(code) for code, _ in _rows(README, "Exit codes")}
    interrupted = 128 + signal.SIGINT

    assert listed == {0, I2vError.exit_code, UsageError.exit_code, Stopped.exit_code, interrupted}
    assert {int(code) for code in re.findall(r"(?<![$\d.])(\d{1,3}) [a-zC]", EPILOG.split("Exit codes")[1])} == listed


def test_commands_in_documents_exist() -> None:
    """Who types what a document says finds a command of that name, with those options."""
    lines = [line for line in _all_code() if re.search(r"(^|/)i2v [a-z]", line)]
    assert len(lines) > 3

    for line in lines:
        words = line[re.search(r"(^|/)i2v ", line).end() :].split()  # type: ignore[union-attr]
        path = tuple(words[:2]) if tuple(words[:2]) in COMMANDS else tuple(words[:1])
        assert path in COMMANDS, line
        assert {word for word in words if word.startswith("--")} <= COMMANDS[path], line


def test_options_in_documents_exist() -> None:
    """An option that is named alone is one of some command."""
    options = {line.split()[0] for line in _all_code() if line.startswith("--")}
    assert "--max-spend" in options

    assert options - set().union(*COMMANDS.values()) == set()


def test_make_targets_in_documents_exist() -> None:
    """Every target that is named is in the Makefile."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {target for line in _all_code() for target in re.findall(r"\bmake ([a-z]+)\b", line)}
    assert {"demo", "test", "setup"} <= named

    assert named - targets == set()


def test_variables_in_documents_exist() -> None:
    """Every variable that is named is read by somebody."""
    known = {str(field.validation_alias) for field in Settings.model_fields.values()} | NOT_OURS
    named = {name for line in _all_code() for name in re.findall(r"\b(?:I2V|APIXO|PREFECT)_[A-Z_]+\b(?!\*)", line)}
    assert "I2V_BUCKET" in named

    assert named - known == set()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_resolve(name: str) -> None:
    """A link within the project leads to a file."""
    text = (ROOT / name).read_text()
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]

    assert [link for link in links if not ((ROOT / name).parent / link.partition("#")[0]).exists()] == []


def test_some_links_are_found() -> None:
    """The check above has something to check."""
    assert "](docs/licences.md)" in README
    assert "](docs/architecture.md)" in README


def test_architecture_draws_the_legal_changes() -> None:
    """The diagram of a job's life is the table that the ledger refuses changes by."""
    drawn = set(re.findall(r"^ +(\w+) --> (\w+): \w", ARCHITECTURE, re.MULTILINE))
    legal = {(old.value, new.value) for old, news in ALLOWED_TRANSITIONS.items() for new in news}
    assert drawn

    assert drawn == legal
    assert {state for pair in drawn for state in pair} == {state.value for state in JobState}


def test_architecture_names_what_is_there() -> None:
    """Every file and folder that the page names exists, and each folder may import what it says."""
    spans = {span for _, span in CODE.findall(ARCHITECTURE)}
    named = {
        span
        for span in spans
        if re.fullmatch(r"[\w/]+\.py|(?:src|tests|flows|tasks|sandbox|doors|deployments|benchmarks)/[\w/]*", span)
    }
    assert len(named) > 30
    assert [span for span in named if not ((ROOT / span).exists() or (ROOT / "src/i2v" / span).exists())] == []

    rows = _rows(ARCHITECTURE, "Layout, and who may import whom")
    imports = {
        row[0].strip("`/").removeprefix("src/"): set(re.findall(r"`(\w+)`", row[2])) for row in rows if len(row) == 3
    }
    assert {ring: imports[ring] for ring in RINGS} == {ring: RINGS[ring] for ring in RINGS}
