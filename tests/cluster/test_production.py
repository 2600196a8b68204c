"""docs/production.md, run line by line: on `make cluster`, with the sandbox as AWS and provider.

tests/integration/deployments/test_aws_commands.py runs the lines for AWS.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cluster_world import ClusterWorld, wait_for
from tests.support.compose_commands import ComposeCommands
from tests.support.documents import code_blocks, read_page, shell_lines
from tests.support.i2v_command import bare_env, run_script
from tests.support.paths import ROOT

PAGE = "docs/production.md"
COMPOSE = "docker compose "
INLINE = re.compile(r"`(docker compose [^`]+)`")
ELSEWHERE = ("aws ", "GROUP_ID=$(aws ", "xargs ", "'DeleteMarkers", "make cluster", ".venv/bin/i2v ")
"""Lines that another test types."""
NOT_TRIED = ("git ", "make secrets", "ssh ", "sudo ", "export COMPOSE_FILE=")
UPLOADED = 400_000
SAVE_BLOCK = (
    'from prefect.blocks.notifications import SlackWebhook as S; S(url="https://hooks.slack.com/x").save("alerts")'
)
pytestmark = pytest.mark.timeout(3600)


def test_every_line_is_tried_or_named() -> None:
    """Each line of the page's shell blocks is typed in a test, except those that are named here."""
    lines = [line for block in code_blocks("sh") if block.page == PAGE for line in shell_lines(block)]
    known = (COMPOSE, *ELSEWHERE, *NOT_TRIED)

    assert [line for line in lines if not line.strip().startswith(known)] == []
    assert all(any(line.strip().startswith(prefix) for line in lines) for prefix in NOT_TRIED)


def test_each_command_of_compose_works(world: ClusterWorld, tmp_path: Path) -> None:
    """In the page's order, each command works, and images that land before and after all of them become videos."""
    shell = ComposeCommands(world.cluster, tmp_path)
    commands = compose_commands()
    assert len(commands) > 20
    images = world.upload("images/before/", range(UPLOADED, UPLOADED + 2))
    wait_for(lambda: len(world.stored("videos/before/")) == 2)
    saved = run_script(SAVE_BLOCK, bare_env(**world.cluster.user_environment))
    assert saved.code == 0, saved.err

    printed = {command: shell.type(command) for command in commands}

    assert "stored" in next(text for command, text in printed.items() if command.endswith("i2v jobs"))
    images |= world.upload("images/after/", range(UPLOADED + 2, UPLOADED + 4))
    wait_for(lambda: len(world.stored("videos/after/")) == 2)
    assert world.is_billed_once(images)


def compose_commands() -> list[str]:
    """Return the page's commands of Compose in order: lines of blocks, and spans of sentences."""
    text = read_page(PAGE).replace("\\\n", " ")
    found = re.findall(rf"^ *({COMPOSE}.*)$|{INLINE.pattern}", text, re.MULTILINE)
    return [line or span for line, span in found]


def test_rehearsal(tmp_path: Path) -> None:
    """`make cluster` prints variables with which the commands of step 1 work; Ctrl-C ends it."""
    (block,) = [each for each in code_blocks("sh") if each.page == PAGE and "samples/" in each.text]
    log = tmp_path / "log"
    command = [sys.executable, "-m", "sandbox.cluster"]
    with log.open("wb") as out, subprocess.Popen(command, cwd=ROOT, env=bare_env(), stdout=out, stderr=out) as cluster:  # noqa: S603 - our own command
        try:
            wait_for(lambda: "Ready." in log.read_text() or cluster.poll() is not None)
            exports = "".join(re.findall(r"^export .*\n", log.read_text(), re.MULTILINE))
            script = f"set -e\n{exports}{block.text.replace('.venv/bin/', '')}"
            run = ["/bin/sh", "-c", script]
            done = subprocess.run(run, cwd=ROOT, env=bare_env(), capture_output=True, text=True, check=False)  # noqa: S603 - the page's own lines
        finally:
            cluster.send_signal(signal.SIGINT)
            cluster.wait()

    assert exports.count("export ") > 5, log.read_text()
    assert done.returncode == 0, done.stdout + done.stderr
    assert cluster.returncode == 130
