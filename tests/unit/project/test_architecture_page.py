"""docs/architecture.md matches the code: states, files, packages and import rules."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from functools import cache
from typing import Any

from i2v.ledger import job
from i2v.ledger.attempt import AttemptEnd, EndKind
from i2v.ledger.job import JobState
from tests.support.documents import code_spans, names_in, read_page, tables
from tests.support.job_records import CLAIMED, NOW, explore
from tests.support.paths import ROOT

ARCHITECTURE = "docs/architecture.md"


@cache
def _made() -> set[tuple[str, str]]:
    """Return the changes of state that any sequence of events can make. Two attempts show all; a third adds none."""
    steps = ((step.old.state.value, step.new.state.value) for step in explore(max_attempts=2))
    return {(old, new) for old, new in steps if old != new}


def test_architecture_draws_the_transitions_of_the_code() -> None:
    """The state diagram has exactly the changes of state that the functions in `i2v.ledger.transitions` can make."""
    drawn = set(re.findall(r"^ +(\w+) --> (\w+): \w", read_page(ARCHITECTURE), re.MULTILINE))
    assert drawn

    assert drawn == _made()
    assert {state for pair in drawn for state in pair} == {state.value for state in JobState}


def test_the_job_modules_docstring_has_the_same_transitions() -> None:
    """So does the list at the head of `i2v.ledger.job`; what is in parentheses explains."""
    listed, old = set(), ""
    for line in re.sub(r"\([^)]*\)", "", job.__doc__ or "").splitlines():
        if match := re.fullmatch(r" {4}(\w*) +─► (.+)", line):
            old = match[1] or old
            listed |= {(old, new.strip()) for new in match[2].split("|")}
    assert listed

    assert listed == _made()


def test_architecture_describes_each_state_and_end() -> None:
    """The tables of the ledger name every way in which an attempt ends, and the state that it gives its job."""
    ends, states = tables(ARCHITECTURE, "The ledger")

    assert [names_in(row[0]) for row in ends] == [[kind.value] for kind in EndKind]
    assert {state for _, text in states for state in names_in(text)} == {state.value for state in JobState}


def test_architecture_says_which_ends_cost_nothing() -> None:
    """Its column `counts` says no exactly where an attempt without a task costs nothing."""
    ends, _ = tables(ARCHITECTURE, "The ledger")
    said = {names_in(kind)[0]: counts for kind, _, counts in ends}
    (attempt,) = CLAIMED.attempts

    for kind in EndKind:
        ended = attempt.model_copy(update={"end": AttemptEnd(kind=kind, at=NOW, revision=1)})
        without_task, with_task = ended.cost_usd, ended.model_copy(update={"task_id": "task"}).cost_usd
        assert said[kind] == ("yes" if without_task else "only with a task id" if with_task else "no")


def test_architecture_names_files_that_exist() -> None:
    """Every file and folder that docs/architecture.md names exists."""
    folders = r"(?:src|tests|flows|tasks|prefect_support|sandbox|doors|deployments|benchmarks)/[\w/]*"
    named = {span for span in code_spans(ARCHITECTURE) if re.fullmatch(rf"[\w/]+\.py|{folders}", span)}
    assert len(named) > 60

    assert [span for span in named if not ((ROOT / span).exists() or (ROOT / "src/i2v" / span).exists())] == []


def test_architecture_describes_every_package() -> None:
    """docs/architecture.md describes every folder of the project and every package of the library."""
    packages = {path.parent for path in (ROOT / "src/i2v").glob("*/__init__.py")}
    described = {span.strip("/") for span in code_spans(ARCHITECTURE)}
    assert packages

    assert {path.relative_to(ROOT).as_posix() for path in packages} - described == set()
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} - described == set()


def _contracts(kind: str) -> list[dict[str, Any]]:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    found = [contract for contract in config["contracts"] if contract["type"] == kind]
    assert found, f"pyproject.toml has no contract of type {kind}"
    return found


def _layers(contract: dict[str, Any]) -> list[list[str]]:
    return [[name.strip() for name in layer.split("|")] for layer in contract["layers"]]


def _allowed() -> Iterator[tuple[str, set[str]]]:
    """Yield each top-level package and what the contracts let it import."""
    top = next(_layers(contract) for contract in _contracts("layers") if "containers" not in contract)
    forbidden = _contracts("forbidden")
    for number, names in enumerate(top[:-1]):
        for name in names:
            below = {lower for layer in top[number + 1 :] for lower in layer}
            yield (
                name,
                below
                - {
                    module
                    for each in forbidden
                    if name in each["source_modules"]
                    for module in each["forbidden_modules"]
                },
            )


def _users() -> dict[str, set[str]]:
    """Return the third-party packages of the contracts, each with the modules of the library that may import it."""
    exceptions = [each for contract in _contracts("forbidden") for each in contract.get("ignore_imports", [])]
    users: dict[str, set[str]] = {}
    for module, package in (each.split(" -> ") for each in exceptions):
        users.setdefault(package, set()).add(module.removesuffix(".**"))
    return users


def test_architecture_has_the_import_rules_of_the_linter() -> None:
    """The tables of import rules are the contracts in pyproject.toml."""
    packages, library, third_party = tables(ARCHITECTURE, "Imports")
    inside = next(_layers(contract) for contract in _contracts("layers") if contract.get("containers") == ["i2v"])

    assert {folder.strip("`"): set(names_in(imports)) for folder, imports in packages} == dict(_allowed())
    assert [set(names_in(modules)) for _, modules in library] == [set(layer) for layer in inside]
    assert {package: set(names_in(users)) for names, users in third_party for package in names_in(names)} == _users()
