"""The project's shape: who may import whom, and what no file may hold. The tables at the top are the rules."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.paths import ROOT

RINGS = {
    "i2v": {"i2v"},
    "prefect_support": {"prefect_support", "i2v"},
    "tasks": {"tasks", "prefect_support", "i2v"},
    "flows": {"tasks", "prefect_support", "i2v"},  # not each other
    "sandbox": {"sandbox", "i2v"},
    "doors": {"doors", "i2v"},
    "deployments": {"deployments", "prefect_support", "i2v"},
}
"""What a folder may import of ours."""
OUTERMOST = "src/i2v/cli"
"""cli.py or cli/: it alone reaches flows, and only inside a function."""

ONLY_IN: dict[str, set[str]] = {
    "httpx": {"src/i2v/apixo/client.py", "src/i2v/net/fetcher.py"},
    "boto3": {"src/i2v/s3/client.py", "src/i2v/s3/storage.py", "src/i2v/s3/direct.py"},
    "botocore": {"src/i2v/s3/client.py", "src/i2v/s3/answers.py", "src/i2v/s3/storage.py", "src/i2v/s3/direct.py"},
    "urllib3": {"src/i2v/net/fetcher.py", "src/i2v/net/http_get.py", "src/i2v/s3/direct.py"},
    "prefect": {"src/i2v/cli/prefect/connection.py", "src/i2v/cli/prefect/embedded_server.py"},
}
"""The files of the library that may import a package."""

VAGUE_NAMES = {"util", "utils", "helper", "helpers", "common", "core", "constants"}
REGISTRY = re.compile(r"pypi[.]org|files[.]pythonhosted|index[-_]url|registry[.]npmjs", re.IGNORECASE)
MACHINE_PATH = re.compile(r"(?<![\w.…*-])/(?:work|root|home|tmp|Users|private)/")
PICTURES = {".png", ".jpg", ".webp", ".mp4"}
MADE_BY_TOOLS = {"__pycache__", "build", "dist"}


def _files(folder: Path = ROOT) -> Iterator[str]:
    for path in sorted(folder.iterdir()):
        if path.name == ".git":
            continue
        if path.is_file():
            yield path.relative_to(ROOT).as_posix()
        elif path.name == ".ci" or not (path.name.startswith(".") or path.name in MADE_BY_TOOLS):
            yield from _files(path)


FILES = list(_files())
TREES = {file: ast.parse((ROOT / file).read_text()) for file in FILES if file.endswith(".py")}
FLOWS = {Path(file).stem for file in TREES if file.startswith("flows/")}


def _ring(file: str) -> str:
    return file.removeprefix("src/").partition("/")[0]


class Import(NamedTuple):
    """One import: by a statement or by `import_module("…")`."""

    file: str
    line: int
    package: str
    in_function: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.package}"


def _imports(file: str, node: ast.AST, *, in_function: bool = False) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        for module in _modules(file, child):
            root = module.partition(".")[0]
            yield Import(file, child.lineno, "flows" if root in FLOWS else root, in_function)  # type: ignore[attr-defined]
        inside = in_function or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from _imports(file, child, in_function=inside)


def _modules(file: str, node: ast.AST) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=module, level=level):
            return [_ring(file) if level else module or ""]
        case ast.Call(
            func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
            args=[ast.Constant(value=str(module)), *_],
        ):
            return [module]
        case _:
            return []


def _imports_of(ring: str) -> list[Import]:
    files = [file for file in TREES if _ring(file) == ring]
    assert files, f"no module found in {ring}"
    return [found for file in files for found in _imports(file, TREES[file])]


def _at_import(node: ast.AST) -> Iterator[ast.AST]:
    """What runs when the module is imported: all but the bodies of functions and of the main guard."""
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                for part in (*child.decorator_list, child.args):
                    yield from (part, *_at_import(part))
            case ast.Lambda() | ast.If(test=ast.Compare(left=ast.Name(id="__name__"))):
                continue
            case _:
                yield from (child, *_at_import(child))


def _reads_environment(node: ast.AST) -> bool:
    match node:
        case ast.Name(id="environ" | "getenv") | ast.Attribute(attr="environ" | "getenv"):
            return True
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
            return name in {"Settings", "read_settings"}
        case _:
            return False


def _lines_with(pattern: re.Pattern[str]) -> list[str]:
    texts = {file: (ROOT / file).read_text() for file in FILES if Path(file).suffix not in PICTURES}
    assert {"README.md", "Makefile", ".ci/run", "requirements.txt", "src/i2v/errors.py"} <= texts.keys()
    return [
        f"{file}:{number}: {line.strip()}"
        for file, text in texts.items()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]


@pytest.mark.parametrize("ring", RINGS)
def test_a_folder_imports_only_what_lies_inside_it(ring: str) -> None:
    """Flows use tasks, tasks use the library, and nothing points outwards but the command line."""
    ours = [found for found in _imports_of(ring) if found.package in {*RINGS, "tests", "benchmarks", "deployments"}]
    assert ours, f"no import of ours found in {ring}"

    wrong = [found for found in ours if found.package not in RINGS[ring]]
    assert [str(found) for found in wrong if not (found.package == "flows" and found.file.startswith(OUTERMOST))] == []


def test_the_command_line_reaches_flows_only_inside_a_function() -> None:
    """Importing the library, the command line included, works without the project's root."""
    of_cli = [found for found in _imports_of("i2v") if found.file.startswith(OUTERMOST)]
    assert of_cli, "no command line found"

    assert [str(found) for found in of_cli if found.package == "flows" and not found.in_function] == []


@pytest.mark.parametrize("package", ONLY_IN)
def test_the_library_meets_the_outside_in_one_place(package: str) -> None:
    """HTTP, S3 and Prefect are each known to the few files that are named for them."""
    everywhere = {
        found.file
        for ring in ("i2v", "prefect_support", "tasks", "flows")
        for found in _imports_of(ring)
        if found.package == package
    }
    assert everywhere, f"nobody imports {package}"

    assert set() == {file for file in everywhere if _ring(file) == "i2v"} - ONLY_IN[package]


def test_no_module_has_a_vague_name() -> None:
    """A module's name says what is in it."""
    assert "src/i2v/errors.py" in TREES

    assert [file for file in TREES if VAGUE_NAMES & {Path(part).stem for part in Path(file).parts}] == []


def test_flows_hold_no_classes() -> None:
    """Prefect loads a flow's file under a name of its own, where a class would exist twice."""
    flows = [file for file in TREES if file.startswith("flows/")]
    assert flows

    assert [file for file in flows if any(isinstance(node, ast.ClassDef) for node in ast.walk(TREES[file]))] == []


def test_no_flow_is_named_like_a_package() -> None:
    """Prefect puts `flows/` first on the path, where such a file would shadow the package."""
    assert FLOWS

    taken = {*RINGS, "tests", "benchmarks", "deployments", *sys.stdlib_module_names, *packages_distributions()}
    assert set() == FLOWS & taken - {"__init__"}


def test_no_file_names_a_package_registry() -> None:
    """Where packages come from is the machine's own setting."""
    assert _lines_with(REGISTRY) == []


def test_no_file_names_a_path_of_one_machine() -> None:
    """The project works wherever it is put."""
    assert _lines_with(MACHINE_PATH) == []


def test_nothing_reads_the_environment_at_import() -> None:
    """Settings are read when first needed, so that importing a module never fails or freezes them."""
    modules = {file: tree for file, tree in TREES.items() if not file.startswith("tests/")}
    assert any(_reads_environment(node) for tree in modules.values() for node in ast.walk(tree)), "nobody reads it"

    assert [file for file, tree in modules.items() if any(map(_reads_environment, _at_import(tree)))] == []
