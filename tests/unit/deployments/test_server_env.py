"""deployments/server.env: what a server of one's own is started with."""

from __future__ import annotations

import re

from sandbox.prefect_server import SETTINGS
from tests.support.paths import ROOT

TEXT = (ROOT / "deployments/server.env").read_text()
GIVEN = dict(re.findall(r"^([A-Z_]+)=(.*)$", TEXT, re.MULTILINE))


def test_the_sandbox_starts_its_server_with_the_same() -> None:
    """What tests and the demo run on is what is shipped."""
    assert SETTINGS

    assert {name: GIVEN.get(name) for name in SETTINGS} == SETTINGS


def test_each_setting_has_its_reason() -> None:
    """No paragraph is without a comment before its settings."""
    paragraphs = TEXT.strip().split("\n\n")
    assert len(paragraphs) > 5

    assert [paragraph for paragraph in paragraphs if not paragraph.startswith("# ")] == []


def test_shell_and_systemd_read_it_alike() -> None:
    """Plain names and values: no quotes, spaces or variables, of which the two make different things."""
    lines = [line for line in TEXT.splitlines() if line and not line.startswith("#")]
    assert lines

    assert [line for line in lines if not re.fullmatch(r"[A-Z_]+=[\w.,:/-]+", line)] == []


def test_no_secret_lies_in_it() -> None:
    """The encryption key is named, and its value is left to who runs the server."""
    assert re.findall(r"ENCRYPTION_KEY=(.*)", TEXT) == [""]
