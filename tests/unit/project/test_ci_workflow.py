"""The workflow of GitHub Actions: valid, pinned, and running the project's own commands."""

from __future__ import annotations

import re
import subprocess
import sys

import yaml

from tests.support.paths import ROOT

WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
TEXT = WORKFLOW.read_text()
WANTED = {"test", "test-cluster", "test-deployments", "test-ui", "test-metrics", "image"}


def test_workflow_is_valid() -> None:
    """The workflow follows GitHub's published schema."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(WORKFLOW)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own file

    assert done.returncode == 0, done.stdout + done.stderr


def test_workflow_runs_targets_that_exist() -> None:
    """It runs each suite of tests and builds the image, by targets of the Makefile."""
    entries = yaml.safe_load(TEXT)["jobs"]["make"]["strategy"]["matrix"]["include"]
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    assert {entry["target"] for entry in entries} == WANTED
    assert targets >= WANTED


def test_actions_are_pinned_to_commits() -> None:
    """Each action is pinned to a commit, with the version that it is beside it."""
    uses = re.findall(r"uses: (.*)", TEXT)
    assert len(uses) == 2

    assert [use for use in uses if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", use)] == []
