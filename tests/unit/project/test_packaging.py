"""Packaging: pins and lock, the licenses page and the sample photos."""

from __future__ import annotations

import re
import tomllib
from itertools import chain

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import Specifier
from packaging.utils import canonicalize_name
from PIL import Image

from tests.support.paths import ROOT

PYPROJECT = (ROOT / "pyproject.toml").read_text()
CONFIG = tomllib.loads(PYPROJECT)
LOCKED = re.compile(
    r"^(?P<name>[\w.-]+)==(?P<version>[^ ;]+)(?P<rest>.*(?:\n    --hash=sha256:[0-9a-f]{64}(?: \\)?)+)", re.MULTILINE
)


def _direct() -> list[Requirement]:
    """Return every requirement in pyproject.toml, development groups included."""
    lines = chain(CONFIG["project"]["dependencies"], *CONFIG["dependency-groups"].values())
    return [Requirement(line) for line in lines if isinstance(line, str)]  # the others include a group


def _is_next_major(specifier: Specifier, requirement: Requirement) -> bool:
    lowest = [other.version for other in requirement.specifier if other.operator == ">="]
    majors = [int(version.partition(".")[0]) + 1 for version in lowest]
    return specifier.operator == "<" and [specifier.version] == [str(major) for major in majors]


def _excludes_versions(requirement: Requirement) -> bool:
    """Whether it excludes versions below the next major one."""
    return any(each.operator != ">=" and not _is_next_major(each, requirement) for each in requirement.specifier)


def test_every_pin_has_its_reason() -> None:
    """Every pin has its reason beside it in pyproject.toml."""
    pins = [requirement for requirement in _direct() if _excludes_versions(requirement)]
    assert {"fastapi", "ministack"} <= {pin.name for pin in pins}

    without = [pin.name for pin in pins if not re.search(rf'"{pin.name}\W[^"]*",\s*# \w', PYPROJECT)]
    assert without == []


def test_lock_holds_every_dependency_with_hashes() -> None:
    """The lock holds every direct dependency at an allowed version, and a hash for every file."""
    text = "".join((ROOT / name).read_text() for name in ("requirements.txt", "requirements-infrastructure.txt"))
    lines = list(LOCKED.finditer(text))
    locked = {canonicalize_name(found["name"]): found["version"] for found in lines}
    assert len(locked) > len(_direct())
    assert len(lines) == len(re.findall(r"^[^\s#-]", text, re.MULTILINE)), "a line has no version or no hash"

    unmet = [
        str(wanted)
        for wanted in _direct()
        if canonicalize_name(wanted.name) not in locked
        or not wanted.specifier.contains(locked[canonicalize_name(wanted.name)], prereleases=True)
    ]
    assert unmet == []


def test_licenses_page_names_every_direct_dependency() -> None:
    """The licenses page lists every direct dependency."""
    words = set(re.findall(r"[\w-]+", (ROOT / "docs/licenses.md").read_text().lower()))
    names = {canonicalize_name(requirement.name) for requirement in _direct()}
    assert "av" in names

    missing = {name for name in names if re.sub(r"\[.*", "", name) not in words}
    assert missing == set()


def _samples() -> dict[str, tuple[int, int]]:
    rows = re.findall(r"^\| `(\S+)` \|.*\| (\d+) . (\d+) \|$", (ROOT / "samples/README.md").read_text(), re.MULTILINE)
    return {name: (int(width), int(height)) for name, width, height in rows}


def test_samples_are_those_their_readme_names() -> None:
    """Each sample photo is listed with its source and license, and each sidecar prompt has a photo."""
    files = {path.name for path in (ROOT / "samples").iterdir()} - {"README.md"}
    photographs = {name for name in files if not name.endswith(".txt")}
    assert len(photographs) == 5

    assert photographs == set(_samples())
    assert {name.removesuffix(".txt") for name in files - photographs} <= photographs


@pytest.mark.parametrize(("name", "pixels"), _samples().items())
def test_sample_is_taken_unless_it_is_named_too_small(name: str, pixels: tuple[int, int]) -> None:
    """Four samples meet the provider's rules; the fifth is one pixel too small."""
    with Image.open(ROOT / "samples" / name, formats=("JPEG", "PNG")) as image:
        image.load()
        width, height = image.size

    assert (width, height) == pixels
    assert 2 / 5 < width / height < 5 / 2
    assert (min(width, height) > 300) is (name != "cat-too-small.png")
