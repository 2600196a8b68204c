"""The end of the process of `i2v`."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import sys, threading
import i2v.cli
i2v.cli.EXIT_SECONDS = 0.5
threading.Thread(target=threading.Event().wait).start()
sys.argv = ["i2v", *sys.argv[1:]]
i2v.cli.main()
"""


@pytest.mark.parametrize(("words", "code"), [(("--help",), 0), (("no-such-command",), 2)])
def test_a_thread_that_never_ends_does_not_keep_the_command(words: tuple[str, ...], code: int) -> None:
    """Prefect's threads may wait for a server that is gone; output and exit code stay, and a line says what is lost."""
    ended = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-c", SCRIPT, *words], capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == code
    assert "Usage: " in ended.stdout + ended.stderr
    assert "Ended without waiting for the last events and logs" in ended.stderr
