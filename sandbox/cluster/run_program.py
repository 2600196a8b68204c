"""`python -m sandbox.cluster.run_program PROGRAM ARGUMENTS…`: let a program end with its parent, as ChildProcess does.

SIGTERM becomes SIGINT, which stops PostgreSQL without waiting for its clients; Redis and nginx take both alike.
"""

import signal
import subprocess
import sys


def main() -> int:
    """Run the program and return its exit code."""
    program = subprocess.Popen(sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: program.send_signal(signal.SIGINT))
    return program.wait()


if __name__ == "__main__":
    sys.exit(main())
