"""The README's production recipe as typed: an uploaded image becomes a video, and every link on the way opens."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import expect

from sandbox import Sandbox
from sandbox.prefect_server import PrefectServer
from sandbox.provider import ProviderOptions
from sandbox.synthetic_images import make_jpeg
from tests.support.browser_page import OpenPage
from tests.support.documents import code_blocks
from tests.support.door_process import wait_for
from tests.support.i2v_command import bare_env
from tests.support.paths import ROOT

TOKEN = "the-token-of-the-gallery"
SECONDS = 240
RUN = "1 image · images/own.jpg · standard 6 s"


@dataclass(frozen=True)
class Deployed:
    """What the recipe left running."""

    sandbox: Sandbox
    prefect: PrefectServer
    door: str


def recipe() -> tuple[list[str], list[str]]:
    """Return the exports and the commands of the README's production section."""
    (block,) = [each for each in code_blocks("sh") if each.page == "README.md" and "worker start" in each.text]
    lines = [line.partition(" #")[0].rstrip() for line in block.text.splitlines()]
    exports = [line for line in lines if line.startswith("export ")]
    return exports, [line for line in lines if line not in exports]


def run(command: str, env: dict[str, str]) -> None:
    """Run a command to its end; it must succeed."""
    done = subprocess.run(["/bin/sh", "-c", command], cwd=ROOT, env=env, capture_output=True, text=True, check=False)  # noqa: S603 - the README's
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


@contextmanager
def running(command: str, env: dict[str, str], log: Path, ready: str) -> Iterator[str]:
    """Keep a command running; yield what it prints when it is ready."""
    with log.open("wb") as out:
        child = subprocess.Popen(  # noqa: S603 - the README's
            ["/bin/sh", "-c", f"exec {command}"],
            cwd=ROOT,
            env=env,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield wait_for(lambda: "".join(re.findall(ready, log.read_text())), SECONDS)
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


@pytest.fixture(scope="module")
def deployed(no_outside: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """Type the recipe, with a sandbox as the world and a server on a free port."""
    folder = tmp_path_factory.mktemp("recipe")
    exports, (deploy, doctor, worker, door) = recipe()
    with ExitStack() as stack:
        options = ProviderOptions(render_seconds=1, fast=True)
        sandbox = stack.enter_context(Sandbox(options, bucket="own", notifications=True))
        server = stack.enter_context(PrefectServer())
        quiet = {"PREFECT_HOME": str(folder), "DO_NOT_TRACK": "1"}
        typed = "\n".join(line for line in exports if "…" not in line).replace("http://127.0.0.1:4200", server.url)
        command = ["/bin/sh", "-c", f"{typed}\nenv -0"]
        world = bare_env(**sandbox.env, I2V_GALLERY_TOKEN=TOKEN, I2V_DOOR_PORT="0", **quiet)
        printed = subprocess.run(command, env=world, capture_output=True, text=True, check=True).stdout  # noqa: S603 - the README's
        env = dict(line.split("=", 1) for line in printed.split("\0") if line)
        run(deploy, env)
        run(doctor, env)
        stack.enter_context(running(worker, env, folder / "worker.log", "Worker '.*' started!"))
        url = stack.enter_context(running(door, env, folder / "door.log", r"(?<=listens on )http://[\d.:]+"))
        sandbox.put_image("images/own.jpg", make_jpeg(640, 480))
        wait_for(lambda: any(key.endswith(".json") for key in sandbox.keys("videos/")), SECONDS)
        yield Deployed(sandbox, server, url)


@pytest.mark.timeout(2 * SECONDS)
def test_an_upload_becomes_a_video_that_the_gallery_links_to(deployed: Deployed, new_visit: OpenPage) -> None:
    """The door's page names the gallery; a video's details lead to its run in Prefect, and that to its report."""
    page = new_visit().page
    page.goto(deployed.door)
    expect(page.get_by_text("/gallery")).to_be_visible()
    page.goto(f"{deployed.door}/gallery")
    page.fill("#token", TOKEN)
    page.click("#login button")
    page.locator(".card[data-name='own.jpg'] .open").click()
    page.click("#run")
    expect(page.get_by_text(RUN).first).to_be_visible()
    expect(page.get_by_text("1 stored · $0.192").first).to_be_visible()
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_role("link", name="i2v-run").first.click()
    expect(page.get_by_text("1 stored · $0.192").first).to_be_visible()
    assert len(deployed.sandbox.provider.billed()) == 1
