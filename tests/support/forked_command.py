"""Run a command in a process forked from a server that has imported everything, which is up to three seconds faster.

The process has its own environment, output, signals, session and exit code, as one that `i2v_command` starts. Use that
where the start itself is tested.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support.forked_processes import fork_context
from tests.support.i2v_command import Result
from tests.support.paths import ROOT

Command = Callable[[Sequence[str]], None]
NOWHERE = Path(os.devnull)


def forked_i2v(*words: str, env: Mapping[str, str], seconds: float = 250) -> Result:
    """Run `i2v` in the project's root with these arguments and this whole environment."""
    return _run(run_i2v, words, env, seconds)


def forked_setup(*words: str, env: Mapping[str, str], seconds: float = 250) -> Result:
    """Run `python -m deployments.setup`, as `make deploy` does."""
    return _run(run_setup, words, env, seconds)


def _run(command: Command, words: Sequence[str], env: Mapping[str, str], seconds: float) -> Result:
    with TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = start_forked(command, *words, env=env, out=out, err=err)
        process.join(seconds)
        code = process.exitcode
        process.kill()
        process.join()
        if code is None:
            raise TimeoutError(f"{' '.join(words)} did not end in {seconds} s:\n{err.read_text()}")
        return Result(code, out.read_text(), err.read_text())


def start_forked(
    command: Command, *words: str, env: Mapping[str, str], out: Path = NOWHERE, err: Path = NOWHERE
) -> ForkServerProcess:
    """Start a command, a function of a module here; it may be given a terminal for `out` and `err`."""
    for path in (out, err):
        path.touch()
    process = fork_context().Process(target=_start, args=(command, words, dict(env), out, err))
    process.start()
    return process


def _start(command: Command, words: Sequence[str], env: dict[str, str], out: Path, err: Path) -> None:
    os.setsid()  # the first terminal that a session opens becomes its own
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for `make test &`
    os.environ.clear()
    os.environ.update(env)
    os.chdir(ROOT)
    for path, stream in ((out, sys.stdout), (err, sys.stderr)):
        file = os.open(path, os.O_RDWR)  # with write access alone, a terminal would not become the session's
        os.dup2(file, stream.fileno())
        os.close(file)
    if "prefect" in sys.modules:
        _read_prefect_settings()
    command(words)


def _read_prefect_settings() -> None:
    """Let Prefect read this process's environment, which it otherwise does when it is imported."""
    from prefect.context import refresh_global_settings_context  # noqa: PLC0415 - only the forked process needs it
    from prefect.logging.configuration import setup_logging  # noqa: PLC0415

    refresh_global_settings_context()
    setup_logging(incremental=False)


def run_i2v(words: Sequence[str]) -> None:
    """Be `i2v`."""
    from i2v.cli import main  # noqa: PLC0415 - only the forked process needs it

    sys.argv = ["i2v", *words]
    try:
        main()
    finally:
        atexit._run_exitfuncs()  # noqa: SLF001 - multiprocessing leaves them out


def run_setup(words: Sequence[str]) -> None:
    """Be `python -m deployments.setup`."""
    from deployments.setup import main  # noqa: PLC0415 - as above

    sys.exit(main(list(words)))


def run_door(words: Sequence[str]) -> None:
    """Be `python -m doors`."""
    from doors.__main__ import main  # noqa: PLC0415 - as above

    sys.argv = ["doors", *words]
    logging.root.handlers.clear()  # Prefect adds its own only where the door's is not there first
    code = main()
    logging.shutdown()
    os._exit(code)
