"""Facts in the documentation match the code: deployments, settings, prices, exit codes, events.

Links are in `test_document_links`, code blocks in `test_document_code`, the rest in `test_architecture_page`.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import yaml
from pydantic_core import PydanticUndefined

from deployments import Change
from i2v.apixo.fail_codes import FailClass, classify_fail_code
from i2v.cli.jobs import STATES
from i2v.cli.run import EPILOG
from i2v.errors import ExitCode
from i2v.ledger.job import JobState
from i2v.media.image_check import RATIO_NARROW, RATIO_WIDE, SHORT_SIDE_OVER
from i2v.media.images import MAX_IMAGE_BYTES
from i2v.pricing import PRICES_USD
from i2v.reports.run_report import ItemReport, Outcome
from i2v.settings import Settings
from tests.support.documents import PAGES, code_lines, code_spans, names_in, read_page, rows, tables
from tests.support.paths import ROOT

NOT_OURS = {
    "PREFECT_API_DATABASE_CONNECTION_URL",
    "PREFECT_API_URL",
    "PREFECT_UI_URL",
    "PREFECT_API_AUTH_STRING",
    "PREFECT_API_KEY",
    "PREFECT_API_SSL_CERT_FILE",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY",
    "PREFECT_SERVER_API_AUTH_STRING",
    "PREFECT_SERVER_CORS_ALLOWED_ORIGINS",
    "PREFECT_HOME",
    "PREFECT_MESSAGING_BROKER",
    "PREFECT_MESSAGING_CACHE",
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE",
    "PREFECT_SERVER_DOCKET_URL",
    "PREFECT_SERVER_ENCRYPTION_KEY",
    "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING",
    "PREFECT_WORKER_QUERY_SECONDS",
    "PREFECT_CLIENT_METRICS_ENABLED",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY",
    "PREFECT_SERVER_METRICS_ENABLED",
}
"""Prefect's own variables."""
TEST_SCALE = {
    name for path in (ROOT / "tests").rglob("*.py") for name in re.findall(r"\"(I2V_[A-Z_]+)\"", path.read_text())
}
"""Variables that tests read, such as how often to repeat a race."""


def _default_text(value: object) -> str:
    """Return a setting's default as the page writes it."""
    if value is None or value in (frozenset(), ()):
        return ""
    return f"`{value}`"


def test_settings_page_lists_every_setting_with_its_default_and_meaning() -> None:
    """docs/settings.md has one row per setting, with the default of the code and a meaning."""
    page = read_page("docs/settings.md")
    listed = {
        row[0]: row[1:]
        for heading in re.findall(r"^## (.*)$", page, re.MULTILINE)
        for row in rows("docs/settings.md", heading)
    }
    fields = Settings.model_fields.values()
    defaults = {
        f"`{field.validation_alias}`": field.get_default(call_default_factory=True, validated_data={})
        for field in fields
    }
    assert PydanticUndefined not in defaults.values()

    assert {name: default for name, (default, _) in listed.items()} == {
        name: _default_text(default) for name, default in defaults.items()
    }
    assert [name for name, (_, meaning) in listed.items() if len(meaning.split()) < 3] == []


def test_readme_lists_the_deployments() -> None:
    """The README's table matches prefect.yaml: each deployment, its flow, and whether it is scheduled."""
    deployments: list[dict[str, Any]] = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    assert deployments

    listed = {
        (name.strip("`"), flow.strip("`"), when.startswith(("daily", "every")))
        for when, name, flow, _, _ in rows("README.md", "Run it in production")
    }
    expected = {
        (each["name"], each["entrypoint"].partition(":")[0], bool(each.get("schedules"))) for each in deployments
    }
    assert listed == expected


def test_deploying_page_names_what_the_setup_prints() -> None:
    """docs/deploying.md explains each word that `make deploy` prints about an object."""
    assert [change for change in Change if change.value not in code_spans("docs/deploying.md")] == []


def test_deploying_page_lists_the_automations() -> None:
    """The table of the alerts has each automation that `make deploy` creates, and no other."""
    sources = [(ROOT / path).read_text() for path in ("deployments/automations.py", "prefect.yaml")]
    created = set(re.findall(r'"i2v: ([^"]+)"', "".join(sources)))
    assert "a run failed" in created
    assert {cells[0] for cells in rows("docs/deploying.md", "Alerts")} == created


def test_the_readme_is_short() -> None:
    """It answers in a minute; longer topics have their own pages."""
    assert len(read_page("README.md").splitlines()) <= 120


def test_readme_lists_the_prices() -> None:
    """The README's prices are the ones that the budget counts."""
    listed = {
        "-".join(re.findall(r"^\w+|\d+(?= s)", video)): Decimal(price.strip("$"))
        for video, price in rows("README.md", "What it costs")
    }
    assert listed == PRICES_USD


def test_production_page_multiplies_the_price() -> None:
    """What the provider charges per month on docs/production.md is the price of 30 days."""
    listed = [
        [Decimal(cell.replace(",", "")) for cell in row[:2]] for row in rows("docs/production.md", "Sizes and costs")
    ]
    assert listed

    assert [month for _, month in listed] == [30 * videos * PRICES_USD["standard-6"] for videos, _ in listed]


def test_provider_page_states_the_limits_of_the_code() -> None:
    """The prices and image limits on docs/provider.md are the constants in the code."""
    submit = {row[0]: row[1:] for row in rows("docs/provider.md", "Submit")}
    priced = [
        Decimal(price) for cell in submit["price"] for price in re.findall(r"\$([\d.]+)(?![\d.]| a second)", cell)
    ]
    limits = read_page("docs/provider.md").split("### Image limits\n")[1].split("\n###")[0]

    assert priced == list(PRICES_USD.values())
    assert f"above {RATIO_NARROW}:{RATIO_WIDE} and below {RATIO_WIDE}:{RATIO_NARROW}" in limits
    assert f"more than {SHORT_SIDE_OVER} px" in " ".join(limits.split())
    assert f"at most {MAX_IMAGE_BYTES // 1_000_000} MB" in limits


def test_provider_page_names_fail_codes_that_the_code_knows() -> None:
    """Each fail code on docs/provider.md is classified by the client, and the test finds both vocabularies."""
    codes = [code for cell, _ in rows("docs/provider.md", "Fail codes") for code in names_in(cell)]
    second = [
        span
        for span in code_spans("docs/provider.md")
        if re.fullmatch(r"[A-Z]+(_[A-Z]+)+|\w+(Detected|Exceeded)", span)
    ]
    second = [code for code in second if not code.startswith(("APIXO_", "I2V_"))]
    assert len(codes) >= 10
    assert len(second) >= 16

    unclassified = {code for code in codes + second if classify_fail_code(code) is FailClass.UNKNOWN}
    assert unclassified == {"GENERATION_FAILED"}  # listed as unknown: it says nothing


def test_errors_page_lists_the_exit_codes() -> None:
    """docs/errors.md lists the exit codes with their meanings, and `i2v run --help` explains the same codes."""
    listed = {int(code): meaning for code, meaning in rows("docs/errors.md", "Exit codes")}
    in_help = {int(code) for code in re.findall(r"(?<![$\d.])(\d{1,3}) [a-zC]", EPILOG.split("Exit codes")[1])}

    assert listed == {code.value: code.meaning for code in ExitCode}
    assert in_help == set(ExitCode) - {ExitCode.TERMINATED}


def test_usage_page_lists_the_outcomes() -> None:
    """docs/usage.md explains every outcome that an image can have."""
    assert [names_in(outcome)[0] for outcome, _ in tables("docs/usage.md", "Output")[1]] == [
        each.value for each in Outcome
    ]


def test_usage_page_lists_the_job_states() -> None:
    """The table of the jobs has each state, and so has the help of the list."""
    states = [str(state) for state in JobState]
    assert [name for cells in rows("docs/usage.md", "Jobs") for name in names_in(cells[0])] == states
    assert re.findall(r"^([a-z]+)  ", STATES, re.MULTILINE) == states


def test_events_page_lists_the_events() -> None:
    """docs/events.md lists the events that runs emit."""
    source = (ROOT / "prefect_support/events.py").read_text()
    emitted = set(re.findall(r"_emit\(\s*\"(i2v\.(?:job|run|shard|budget)\.[a-z.]+[a-z])\"", source))
    listed = {names_in(row[0])[0] for row in rows("docs/events.md", "Events")}
    assert emitted

    assert emitted <= listed
    assert {name for name in listed - emitted if name.removeprefix("i2v.job.") not in {*Outcome}} == set()


def test_events_page_lists_the_payload_of_an_image() -> None:
    """docs/events.md lists every field that an event about an image carries."""
    sentence = read_page("docs/events.md").split("is the image's line of the run's table:")[1].split(".")[0]

    assert names_in(sentence) == [*ItemReport(image="s3://b/k", outcome=Outcome.STORED).row, "run_id"]


def test_make_targets_in_documents_exist() -> None:
    """Every `make` target that a page names is in the Makefile."""
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    lines = [line for line in code_lines() if "apt install" not in line]
    named = {target for line in lines for target in re.findall(r"\bmake ([a-z0-9-]+)", line)}
    assert {"demo", "test", "setup"} <= named

    assert named - targets == set()


def test_variables_in_documents_exist() -> None:
    """Every variable that a page names is a setting, a variable of a test, or Prefect's own."""
    known = {str(field.validation_alias) for field in Settings.model_fields.values()} | NOT_OURS | TEST_SCALE
    named = {name for line in code_lines() for name in re.findall(r"\b(?:I2V|APIXO|PREFECT)_[A-Z_]+\b(?!\*)", line)}
    assert "I2V_BUCKET" in named

    assert named - known == set()


def test_contributing_names_every_folder() -> None:
    """CONTRIBUTING.md has a row for each top-level folder that holds files of the project."""
    ignored = {"build", "dist", "node_modules"}
    folders = {
        path.name
        for path in ROOT.iterdir()
        if path.is_dir() and not path.name.startswith(".") and path.name not in ignored and any(path.glob("*"))
    }
    assert {names_in(row[0])[0].strip("/") for row in rows("CONTRIBUTING.md", "Where things go")} == folders


def test_index_lists_every_page() -> None:
    """docs/README.md links to every other page in docs, and each of those links back."""
    index = read_page("docs/README.md")
    pages = [page.removeprefix("docs/") for page in PAGES if page.startswith("docs/") and page != "docs/README.md"]
    assert pages

    assert [page for page in pages if f"]({page})" not in index] == []
    assert [page for page in pages if "[Index](README.md)" not in read_page(f"docs/{page}")] == []
    others = ("benchmarks/README.md", "samples/README.md")
    assert [page for page in others if "[Index](../docs/README.md)" not in read_page(page)] == []


def test_pages_that_the_code_cites_exist() -> None:
    """Each page of docs that a source file, a configuration file or the Makefile cites exists."""
    suffixes = {".py", ".yaml", ".env", ".conf", ".toml"}
    folders = ("src", "flows", "tasks", "prefect_support", "doors", "deployments", "sandbox", "benchmarks", "tests")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in suffixes]
    files += [path for path in ROOT.iterdir() if path.name == "Makefile" or path.suffix in suffixes]
    cited = {(path, name) for path in files for name in re.findall(r"\bdocs/\w+\.md\b", path.read_text())}
    assert "docs/provider.md" in {name for _, name in cited}

    missing = {(path.relative_to(ROOT).as_posix(), name) for path, name in cited if not (ROOT / name).exists()}
    assert missing == set()
