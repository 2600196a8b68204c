"""docs/architecture.md matches the code: states, files, packages and import rules."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from typing import Any

from i2v.ledger.job import ALLOWED_TRANSITIONS, JobState
from tests.support.documents import code_spans, names_in, read_page, tables
from tests.support.paths import ROOT

ARCHITECTURE = "docs/architecture.md"


def test_architecture_draws_the_legal_transitions() -> None:
    """The state diagram has exactly the transitions that the ledger accepts."""
    drawn = set(re.findall(r"^ +(\w+) --> (\w+): \w", read_page(ARCHITECTURE), re.MULTILINE))
    legal = {(old.value, new.value) for old, news in ALLOWED_TRANSITIONS.items() for new in news}
    assert drawn

    assert drawn == legal
    assert {state for pair in drawn for state in pair} == {state.value for state in JobState}


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
