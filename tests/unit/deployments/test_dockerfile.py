"""The Dockerfile, its lock and its scripts, without building it; `make test-image` builds and runs it."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sandbox.cluster.compose import read_services
from tests.support.paths import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()
CONTAINER = ROOT / "deployments/container"
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())
BLOCK = re.compile(r"^([\w.-]+)==.*(?:\n .*)*", re.MULTILINE)


def _locked(file: str) -> dict[str, str]:
    """Return each package's lines: versions, markers and hashes."""
    found: dict[str, str] = {}
    for block in BLOCK.finditer((ROOT / file).read_text()):
        found[block[1]] = found.get(block[1], "") + block[0]
    return found


def _names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(each).name) for each in requirements if isinstance(each, str)}


def test_image_lock_agrees_with_the_lock() -> None:
    """The image installs the versions and hashes with which the tests run."""
    image, every = _locked("requirements-image.txt"), _locked("requirements.txt")
    assert len(image) > 50

    different = [name for name, text in image.items() if set(_pins(text)) - set(_pins(every.get(name, "")))]
    assert different == []


def _pins(text: str) -> list[str]:
    return re.findall(r"==[\w.!+-]+|sha256:[0-9a-f]{64}", text)


def test_image_lock_holds_no_development_package() -> None:
    """The image's lock has every dependency and extra, and of the development groups only the backend."""
    groups = CONFIG["dependency-groups"]
    development = set().union(*map(_names, groups.values())) - _names(groups["build"])
    extras = CONFIG["project"]["optional-dependencies"]
    needed = set().union(*map(_names, [CONFIG["project"]["dependencies"], *extras.values()]))
    image = set(_locked("requirements-image.txt"))

    assert needed <= image
    brought = {"aiohttp", "markdown-it-py", "packaging", "pyyaml"}
    assert (development - needed) & image <= brought, "prefect, prefect-aws and rich need these"


def test_every_copied_file_reaches_the_build() -> None:
    """`.dockerignore` lets through exactly what the Dockerfile copies from the project."""
    copied = {name for line in re.findall(r"^COPY (?!--)(.*) \S+$", DOCKERFILE, re.MULTILINE) for name in line.split()}
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}

    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)


def test_last_stage_builds_nothing() -> None:
    """The last stage only copies and adds a user, and its process is not root."""
    last = DOCKERFILE.rpartition("\nFROM ")[2]

    assert re.findall(r"^RUN (\w+)", last, re.MULTILINE) == ["useradd"]
    assert re.search(r"^USER [1-9]\d*:", last, re.MULTILINE)


def test_health_check_asks_door_or_worker() -> None:
    """The image's own health check uses the addresses of compose.yaml."""
    checks = {service.name: service.health for service in read_services()}
    urls = set(re.findall(r"http://[^\"]+", DOCKERFILE.partition("HEALTHCHECK")[2]))

    assert urls == {checks["door-1"][-1], checks["worker"][-1]}


def test_health_script_reports_an_address_without_server() -> None:
    """The health script fails if nothing answers."""
    done = subprocess.run([str(CONTAINER / "health"), "http://127.0.0.1:9/"], check=False)  # noqa: S603 - our script

    assert done.returncode == 1


def test_entrypoint_runs_the_command_with_its_arguments() -> None:
    """The entrypoint replaces itself with the command, whose arguments stay as they are."""
    command = [str(CONTAINER / "entrypoint"), "printf", "%s|", "a b", "*"]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), check=True)  # noqa: S603 - ours

    assert done.stdout == "a b|*|"
