"""`python -m sandbox`, as a person or a script runs it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.support.paths import ROOT

COMMAND = [sys.executable, "-m", "sandbox"]


def is_open(address: str) -> bool:
    """Whether a server listens at this URL."""
    host, _, port = address.removeprefix("http://").partition("/")[0].partition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_it_prints_its_environment_and_stops_cleanly(tmp_path: Path, number: int, code: int) -> None:
    """It prints and writes the environment variables, and a signal stops it and all its servers."""
    file = tmp_path / "deep" / "env"
    command = [*COMMAND, "--env-file", str(file), "--fast"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own
        assert process.stdout is not None
        lines: list[str] = []
        while not (lines and "Ctrl-C" in lines[-1]):
            lines.append(process.stdout.readline())
        env = dict(line.split("=", 1) for line in file.read_text().splitlines())
        output = "".join(lines)
        assert "synthetic" in output
        assert "No charges" in output
        assert f"export APIXO_BASE_URL={env['APIXO_BASE_URL']}\n" in output
        key = {"Authorization": f"Bearer {env['APIXO_API_KEY']}"}
        balance = httpx.get(f"{env['APIXO_BASE_URL']}/apikeys/current-balance", headers=key, trust_env=False)
        assert balance.json()["data"] == 100
        process.send_signal(number)
        _, errors = process.communicate(timeout=100)
    assert (process.returncode, errors) == (code, "")
    assert not is_open(env["APIXO_BASE_URL"])
    assert not is_open(env["AWS_ENDPOINT_URL"])


@pytest.mark.parametrize("option", ["port", "s3-port"])
def test_a_taken_port_is_reported_without_a_traceback(option: str) -> None:
    """A taken port ends it with one line and exit code 2."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        address = f"127.0.0.1:{port}"
        command = [*COMMAND, f"--{option}", str(port)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)  # noqa: S603 - our own
    assert done.returncode == 2
    assert done.stderr == f"The sandbox did not start: cannot listen on {address}: Address already in use\n"
