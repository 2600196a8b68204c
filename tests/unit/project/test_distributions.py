"""The sdist, and the wheel that is built from it: what they hold, their metadata, and that the wheel installs."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder
from packaging.metadata import Metadata

from tests.support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ROOT_FILES = {"LICENSE", "PKG-INFO", "README.md", "pyproject.toml", ".gitignore"}


class Distributions(NamedTuple):
    """The built files."""

    sdist: Path
    wheel: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    """Build the sdist, and from it the wheel, as an installer would that has no wheel."""
    folder = tmp_path_factory.mktemp("dist")
    sdist = Path(next(SdistBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])))
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    unpacked = folder / f"{PROJECT['name']}-{PROJECT['version']}"
    return Distributions(
        sdist, Path(next(WheelBuilder(str(unpacked)).build(directory=str(folder), versions=["standard"])))
    )


def _library() -> set[str]:
    files = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src").rglob("*") if path.is_file()}
    return {file for file in files if "__pycache__" not in file}


def test_wheel_holds_the_library_alone(built: Distributions) -> None:
    """The wheel holds i2v alone; flows, tasks and the sandbox run from the checkout."""
    names = zipfile.ZipFile(built.wheel).namelist()
    assert "i2v/settings.py" in names

    assert {name for name in names if not re.match(r"i2v-[\d.]+\.dist-info/", name)} == _library()
    assert any(name.endswith("/licenses/LICENSE") for name in names)


def test_sdist_holds_the_library_and_what_builds_it(built: Distributions) -> None:
    """The sdist holds i2v and the files that its wheel is built from, and no tests, photos or recordings."""
    with tarfile.open(built.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}

    assert names == ROOT_FILES | {f"src/{name}" for name in _library()}


def test_metadata_is_valid_and_has_the_version_of_the_project(built: Distributions) -> None:
    """Both have metadata that package indexes accept, with the version that pyproject.toml has and nothing repeats."""
    with tarfile.open(built.sdist) as archive:
        member = archive.extractfile(f"{PROJECT['name']}-{PROJECT['version']}/PKG-INFO")
        texts = [member.read() if member else b""]
    wheel = zipfile.ZipFile(built.wheel)
    texts += [wheel.read(name) for name in wheel.namelist() if name.endswith("/METADATA")]
    assert len(texts) == 2

    for text in texts:
        metadata = Metadata.from_email(text)
        assert (metadata.name, str(metadata.version)) == (PROJECT["name"], PROJECT["version"])
        assert metadata.description_content_type == "text/markdown"
        assert str(metadata.requires_python) == PROJECT["requires-python"]
    sources = {path: path.read_text() for path in (ROOT / "src").rglob("*.py")}
    assert [path for path, source in sources.items() if f'"{PROJECT["version"]}"' in source] == []


def test_wheel_installs_into_a_clean_environment(built: Distributions, tmp_path: Path) -> None:
    """Installed from its wheel, i2v starts and names its version; its dependencies are those of this environment."""

    def run(*command: str | Path) -> str:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)  # noqa: S603 - our own
        return done.stdout.strip()

    run(sys.executable, "-m", "venv", "--without-pip", tmp_path)
    python = tmp_path / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python)
    run(*pip, "install", "--no-deps", "--no-index", "--no-compile", built.wheel)
    (packages,) = tmp_path.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))  # it comes after the wheel's own files

    assert run(python, "-c", "import i2v; print(i2v.__file__)").startswith(str(packages))
    assert run(tmp_path / "bin" / "i2v", "--version") == f"i2v {PROJECT['version']}"
