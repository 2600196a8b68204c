"""deployments/server.env: the settings of a self-hosted Prefect server."""

from __future__ import annotations

import re
from pathlib import Path

from sandbox.prefect_server import PrefectServer
from tests.support.paths import ROOT

TEXT = (ROOT / "deployments/server.env").read_text()
VALUES = dict(re.findall(r"^([A-Z_]+)=(.*)$", TEXT, re.MULTILINE))


def test_the_sandbox_server_has_the_same_settings(tmp_path: Path) -> None:
    """Tests and the demo run with the settings that are shipped."""
    assert VALUES

    assert VALUES.items() <= PrefectServer().environment(tmp_path).items()


def test_each_setting_has_a_comment() -> None:
    """Each paragraph starts with a comment."""
    paragraphs = TEXT.strip().split("\n\n")
    assert len(paragraphs) > 5

    assert [paragraph for paragraph in paragraphs if not paragraph.startswith("# ")] == []


def test_shell_and_systemd_parse_it_alike() -> None:
    """Lines are plain NAME=value without quotes, spaces or variables, which shell and systemd parse differently."""
    lines = [line for line in TEXT.splitlines() if line and not line.startswith("#")]
    assert lines

    assert [line for line in lines if not re.fullmatch(r"[A-Z_]+=[\w.,:/-]+", line)] == []


def test_it_contains_no_secret() -> None:
    """The encryption key is named without a value."""
    assert re.findall(r"ENCRYPTION_KEY=(.*)", TEXT) == [""]
