"""The files for AWS and Kubernetes, checked by the tools of their field: `make test-deployments` installs these."""

from __future__ import annotations

import importlib
import os
import subprocess
from typing import Any

import pytest
import yaml

from tests.support.aws_account import TEMPLATE
from tests.support.paths import ROOT

KUBERNETES = ROOT / "deployments" / "kubernetes"
VERSIONS = ("1.30", "1.37")
"""The oldest and newest Kubernetes that the manifests are checked for."""
MANIFESTS: dict[str, dict[str, Any]] = {
    f"{file} {each['kind']} {each['metadata'].get('name', '')}": each
    for file in ("deploy.yaml", "door.yaml", "runs.yaml")
    for each in yaml.safe_load_all((KUBERNETES / file).read_text())
}
pytestmark = pytest.mark.skipif(not os.environ.get("TEST_DEPLOYMENTS"), reason="make test-deployments runs it")


def test_cfn_lint_accepts_the_template() -> None:
    """The template is valid CloudFormation, and cfn-lint has not even a hint."""
    options = ["--include-checks", "I", "--regions", "us-east-1", "eu-central-1", "cn-north-1"]
    command = ["cfn-lint", *options, "--", str(TEMPLATE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command

    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", MANIFESTS)
def test_kubernetes_knows_every_field(name: str, version: str) -> None:
    """Each manifest is valid by the published schema, without a field that Kubernetes would ignore."""
    importlib.import_module("kubernetes_validate").validate(MANIFESTS[name], version, strict=True)
