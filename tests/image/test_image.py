"""The container image, built as a user builds it on a base made by debootstrap, runs commands, a worker and a door.

buildah runs containers with chroot isolation here: they share the network and the process ids of this machine.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from sandbox import Sandbox
from sandbox.child_process import ChildProcess, clean_environment
from sandbox.cluster.compose import Addresses, read_services
from sandbox.prefect_server import PrefectServer
from sandbox.provider import ProviderOptions
from sandbox.server import wait_until
from sandbox.synthetic_images import make_jpeg
from tests.support.paths import ROOT

FOLDER = ROOT / ".sandbox" / "image"
"""Base and layers are kept here, so that a second run builds only what has changed; `make clean` removes them."""
BASE = "localhost/i2v-base"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
SECONDS = 300
SERVICES = {service.name: service for service in read_services()}
pytestmark = pytest.mark.timeout(3600)


@dataclass(frozen=True)
class Builder:
    """Return buildah with its own storage."""

    environment: dict[str, str]

    def run(self, *command: str, **variables: str) -> str:
        """Run a command and return its output; show everything if it fails."""
        environment = self.environment | variables
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)  # noqa: S603 - the tools under test
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-5000:]}"
        return done.stdout

    def inside(self, container: str, *command: str, env: Mapping[str, str] | None = None) -> list[str]:
        """Return the command line that runs a command in a container through its entrypoint."""
        variables = [f"--env={name}={value}" for name, value in (env or {}).items()]
        return ["buildah", "run", "--isolation=chroot", *variables, container, "--", "entrypoint", *command]


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    """Return buildah with storage below .sandbox; its run-time state is new each time."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    storage = tmp_path_factory.mktemp("buildah") / "storage.conf"
    run_root = tmp_path_factory.mktemp("run")
    storage.write_text(f'[storage]\ndriver = "overlay"\ngraphroot = "{FOLDER}/storage"\nrunroot = "{run_root}"\n')
    own = {"CONTAINERS_STORAGE_CONF": str(storage), "BUILDAH_ISOLATION": "chroot", "BUILDAH_LAYERS": "true"}
    return Builder(dict(os.environ) | own)


@pytest.fixture(scope="module")
def container(builder: Builder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Build the base and the image, and return a container of it."""
    if BASE not in builder.run("buildah", "images", "--format", "{{.Name}}"):
        _make_base(builder)
    pip = tmp_path_factory.mktemp("pip") / "pip.conf"
    pip.write_text(_pip_configuration())
    builder.run("make", "image", "BUILDER=buildah", f"BASE={BASE}", f"PIP_CONFIG={pip}")
    name = builder.run("buildah", "from", "i2v").strip()
    yield name
    builder.run("buildah", "rm", name)


def _make_base(builder: Builder) -> None:
    """Commit a minimal Debian of this machine's release and mirror, with Python and the CAs trusted here."""
    name = builder.run("buildah", "from", "scratch").strip()
    root = builder.run("buildah", "mount", name).strip()
    codename = re.search(r"^VERSION_CODENAME=(\S+)", Path("/etc/os-release").read_text(), re.MULTILINE)
    assert codename
    packages = "--include=python3,python3-venv,python3-pip"
    builder.run("debootstrap", "--variant=minbase", packages, codename[1], root, _mirror())
    inside = Path(root, CERTIFICATES.relative_to("/"))
    inside.parent.mkdir(parents=True, exist_ok=True)
    inside.write_bytes(CERTIFICATES.read_bytes())
    builder.run("buildah", "commit", "--rm", name, BASE)


def _mirror() -> str:
    """Return the address from which apt installs packages here."""
    lists = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    text = "\n".join(path.read_text() for path in lists if path.is_file())
    found = re.search(r"^(?:URIs:|deb(?: \[.*?\])?) (https?://\S+)", text, re.MULTILINE)
    assert found, "apt has no mirror"
    return found[1]


def _pip_configuration() -> str:
    """Return this machine's pip configuration, without what names local files that the build does not have."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603 - pip itself
    options = dict(re.findall(r"^(?:global|:env:|install|user)\.([\w-]+)='(.*)'$", listed, re.MULTILINE))
    local = ("file:", "/")
    kept = {name: value for name, value in options.items() if name == "cert" or not value.startswith(local)}
    return "[global]\n" + "".join(f"{name} = {value}\n" for name, value in kept.items())


def test_command_line_runs_as_user_without_compiler(builder: Builder, container: str) -> None:
    """The image runs `i2v --help`, not as root, and holds no compiler and no development package."""
    assert "Usage: i2v" in builder.run(*builder.inside(container, "i2v", "--help"))
    assert builder.run(*builder.inside(container, "id", "-u")).strip() == "10001"

    missing = "for name in gcc cc g++ make; do command -v $name && exit 1; done; exit 0"
    builder.run(*builder.inside(container, "sh", "-c", missing))
    imports = (
        "import importlib.util as u; print([n for n in ('pytest', 'mypy', 'ministack', 'hatchling') if u.find_spec(n)])"
    )
    assert builder.run(*builder.inside(container, "python", "-c", imports)).strip() == "[]"
    builder.run(*builder.inside(container, "test", "!", "-s", "/etc/pip.conf"))


def test_entrypoint_exports_secret_files(builder: Builder, container: str, tmp_path: Path) -> None:
    """A file below /run/secrets becomes the variable of its name; an empty file sets nothing."""
    for name, text in {"APIXO_API_KEY": "key of a file\n", "I2V_DOOR_TOKEN": ""}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o444)
    tmp_path.chmod(0o755)
    command = builder.inside(container, "sh", "-c", 'echo "$APIXO_API_KEY|${I2V_DOOR_TOKEN-unset}"')
    command.insert(2, f"--volume={tmp_path}:/run/secrets:ro")

    assert builder.run(*command).strip() == "key of a file|unset"


def test_uploaded_image_becomes_a_video(builder: Builder, container: str, tmp_path: Path) -> None:
    """Deploy, worker and door of the image are healthy and make a video of an upload, on a Prefect server outside."""
    options = ProviderOptions(render_seconds=0.5, fast=True)
    with Sandbox(options, notifications=True) as box, PrefectServer(home=tmp_path) as server:
        env = box.env | {"PREFECT_API_URL": server.api_url, "I2V_DEFAULT_PROMPT": "Slow push in"}
        builder.run(*builder.inside(container, *SERVICES["deploy"].command, env=env))
        with (
            _service(builder, container, env, tmp_path, "door-1"),
            _service(builder, container, env, tmp_path, "worker"),
        ):
            box.put_image("images/cat.jpg", make_jpeg())
            wait_until(lambda: any(key.endswith(".mp4") for key in box.keys("videos/")), SECONDS)
        assert box.provider.billed().total() == 1


@contextmanager
def _service(builder: Builder, container: str, env: dict[str, str], folder: Path, name: str) -> Iterator[None]:
    """Run a service of compose.yaml from the image until its health check succeeds, and stop it at the end."""
    service, addresses = SERVICES[name], Addresses({name: SERVICES[name].ports})
    own = {key: addresses.translate(value, owner=name, local=name) for key, value in service.environment.items()}
    own.pop("PREFECT_API_URL")
    health = [addresses.translate(word, owner=name, local=name) for word in service.health]
    command = builder.inside(container, *service.command, env=env | own)
    child = ("sandbox.cluster.run_program", *command)
    with ChildProcess(*child, env=clean_environment() | builder.environment, log=folder / f"{name}.log") as process:
        check = builder.inside(container, *health)

        def is_healthy() -> bool:
            process.check(float("inf"))
            return subprocess.run(check, env=builder.environment, capture_output=True, check=False).returncode == 0  # noqa: S603 - the image's own check

        wait_until(is_healthy, SECONDS)
        yield
