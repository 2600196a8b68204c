"""The project's shape, where the import contracts in pyproject.toml cannot express it: names, sizes and file contents.

Who may import whom is in `[tool.importlinter]`; `make check` runs it.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

from tests.support.paths import ROOT

PACKAGES = {"i2v", "prefect_support", "tasks", "flows", "doors", "sandbox", "deployments", "benchmarks", "tests"}
MOST_MODULES = 15
LONG_FILE_LINES = 250
MOST_LONG_FILES = 12
VAGUE_NAMES = {"util", "utils", "helper", "helpers", "common", "core", "constants", "misc"}
REGISTRY = re.compile(r"pypi[.]org|files[.]pythonhosted|index[-_]url|registry[.]npmjs", re.IGNORECASE)
MACHINE_PATH = re.compile(r"(?<![\w.…*-])/(?:work|root|home|tmp|Users|private)/")
BINARY = {".png", ".jpg", ".webp", ".mp4"}
GENERATED = {"__pycache__", "build", "dist"}


def _files(folder: Path = ROOT) -> Iterator[str]:
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name != ".git":  # a file in a worktree
            yield path.relative_to(ROOT).as_posix()
        elif path.is_dir() and (path.name == ".ci" or not (path.name.startswith(".") or path.name in GENERATED)):
            yield from _files(path)


FILES = list(_files())


@cache
def _trees() -> dict[str, ast.Module]:
    """Parse every Python file; not at import, since every pytest worker imports this module."""
    return {file: ast.parse((ROOT / file).read_text()) for file in FILES if file.endswith(".py")}


def _flows() -> set[str]:
    return {Path(file).stem for file in FILES if file.startswith("flows/")} - {"__init__"}


def _outside_tests() -> list[str]:
    return [file for file in FILES if file.endswith(".py") and not file.startswith(("tests/", "benchmarks/"))]


def _imported_packages(node: ast.AST) -> set[str]:
    """Return the packages that one import statement names."""
    match node:
        case ast.Import(names=names):
            return {alias.name.partition(".")[0] for alias in names}
        case ast.ImportFrom(module=str(module), level=0):
            return {module.partition(".")[0]}
        case _:
            return set()


def _runs_at_import(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what runs when a module is imported: all but the bodies of functions and of the main guard."""
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                for part in (*child.decorator_list, child.args):
                    yield from (part, *_runs_at_import(part))
            case ast.Lambda() | ast.If(test=ast.Compare(left=ast.Name(id="__name__"))):
                continue
            case _:
                yield from (child, *_runs_at_import(child))


def _reads_environment(node: ast.AST) -> bool:
    match node:
        case ast.Name(id="environ" | "getenv") | ast.Attribute(attr="environ" | "getenv"):
            return True
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
            return name in {"Settings", "read_settings"}
        case _:
            return False


def _lines_with(pattern: re.Pattern[str]) -> list[str]:
    texts = {file: (ROOT / file).read_text() for file in FILES if Path(file).suffix not in BINARY}
    assert {"README.md", "Makefile", ".ci/run", "requirements.txt", "src/i2v/errors.py"} <= texts.keys()
    return [
        f"{file}:{number}: {line.strip()}"
        for file, text in texts.items()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]


def test_no_module_has_a_vague_name() -> None:
    """A module's name says what is in it."""
    assert "src/i2v/errors.py" in _trees()

    assert [file for file in _trees() if VAGUE_NAMES & {Path(part).stem for part in Path(file).parts}] == []


def test_no_package_has_too_many_modules() -> None:
    """A package holds at most 15 modules, so that a reader can take it in at a glance."""
    modules = Counter(str(Path(file).parent) for file in _outside_tests() if not file.endswith("__init__.py"))
    assert "src/i2v/ledger" in modules

    assert [package for package, count in modules.items() if count > MOST_MODULES] == []


def test_few_files_are_long() -> None:
    """Hardly any file outside the tests is longer than 250 lines."""
    lengths = {file: len((ROOT / file).read_text().splitlines()) for file in _outside_tests()}
    long = {file: length for file, length in lengths.items() if length > LONG_FILE_LINES}

    assert len(long) <= MOST_LONG_FILES, long


def test_flows_hold_no_classes() -> None:
    """Prefect loads a flow's file under a module name of its own, so a class in it would exist twice."""
    flows = [file for file in _trees() if file.startswith("flows/")]
    assert flows

    assert [file for file in flows if any(isinstance(node, ast.ClassDef) for node in ast.walk(_trees()[file]))] == []


def test_no_flow_is_named_like_a_package() -> None:
    """Prefect puts `flows/` first on the path, where a file named like a package would shadow it."""
    assert _flows()

    assert set() == _flows() & {*PACKAGES, *sys.stdlib_module_names, *packages_distributions()}


def test_no_file_names_a_package_registry() -> None:
    """Where packages come from is a setting of the machine."""
    assert _lines_with(REGISTRY) == []


def test_no_file_names_a_path_of_one_machine() -> None:
    """The project works in any folder."""
    assert _lines_with(MACHINE_PATH) == []


def test_nothing_reads_the_environment_at_import() -> None:
    """Settings are read when first needed, so that importing a module neither fails nor freezes them."""
    modules = {file: tree for file, tree in _trees().items() if not file.startswith("tests/")}
    assert any(_reads_environment(node) for tree in modules.values() for node in ast.walk(tree))

    assert [file for file, tree in modules.items() if any(map(_reads_environment, _runs_at_import(tree)))] == []
