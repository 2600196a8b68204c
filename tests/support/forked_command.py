"""Run `i2v` in a process forked from a server that has imported everything: `forked_i2v(…)`, up to two seconds faster.

The process has its own environment, output, signals and exit code, as one that `i2v_command` starts. Use that where
the start itself is tested.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support.forked_processes import fork_context
from tests.support.i2v_command import Result
from tests.support.paths import ROOT


def forked_i2v(*words: str, env: Mapping[str, str], seconds: float = 100) -> Result:
    """Run `i2v` in the project's root with these arguments and this whole environment."""
    context = fork_context()
    with TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = context.Process(target=_run, args=(words, dict(env), out, err))
        process.start()
        process.join(seconds)
        code = process.exitcode
        process.kill()
        process.join()
        if code is None:
            raise TimeoutError(f"i2v {' '.join(words)} did not end in {seconds} s:\n{err.read_text()}")
        return Result(code, out.read_text(), err.read_text())


def _run(words: Sequence[str], env: dict[str, str], out: Path, err: Path) -> None:
    os.environ.clear()
    os.environ.update(env)
    os.chdir(ROOT)
    for path, stream in ((out, sys.stdout), (err, sys.stderr)):
        with path.open("wb") as file:
            os.dup2(file.fileno(), stream.fileno())
    sys.argv = ["i2v", *words]
    if "prefect" in sys.modules:
        _read_prefect_settings()
    from i2v.cli import main  # noqa: PLC0415 - only the forked process needs it

    try:
        main()
    finally:
        atexit._run_exitfuncs()  # noqa: SLF001 - multiprocessing leaves them out


def _read_prefect_settings() -> None:
    """Let Prefect read this process's environment, which it otherwise does when it is imported."""
    from prefect.context import refresh_global_settings_context  # noqa: PLC0415 - only the forked process needs it
    from prefect.logging.configuration import setup_logging  # noqa: PLC0415

    refresh_global_settings_context()
    setup_logging(incremental=False)
