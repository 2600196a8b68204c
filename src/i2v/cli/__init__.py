"""The command `i2v`. One module per command (`run`, `jobs`, `doctor`, …), registered in `app`.

Import the library, the flow and Prefect inside the commands, so that `i2v --help` answers at once. What commands share
is in `options`, `images`, `output` and `prefect`. Keep out everything that a flow or a door needs too.
"""

import os
import sys
import threading
from typing import NoReturn

from i2v.cli.signals import end_at_signals

EXIT_SECONDS = 30.0
"""Time for Prefect to send a run's last events and logs; without a server, each would take seconds to fail."""


def main() -> None:
    """Run the command line, and end the process with its exit code."""
    end_at_signals("interrupted: nothing was submitted")
    os.environ.setdefault("DO_NOT_TRACK", "1")  # Prefect's telemetry reads only this, and only when it is imported
    from i2v.cli.app import app
    from i2v.errors import I2vError
    from i2v.logs import protect_logs

    protect_logs()
    try:
        app()
    except I2vError as error:
        from i2v.cli.output.console import print_error

        print_error(error)
        _exit(error.exit_code)
    except SystemExit as ended:
        _exit(ended.code)
    except BrokenPipeError:  # for example `i2v jobs | head`
        _drop_output()
        sys.exit(1)


def _drop_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _exit(code: object) -> NoReturn:
    """Exit with this code, at the latest after `EXIT_SECONDS`."""
    number = code if isinstance(code, int) else int(bool(code))

    def end_now() -> None:
        sys.stderr.write("Ended without waiting for the last events and logs: Prefect's UI may lack them\n")
        sys.stderr.flush()
        os._exit(number)

    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
    timer = threading.Timer(EXIT_SECONDS, end_now)
    timer.daemon = True
    timer.start()
    sys.exit(number)
