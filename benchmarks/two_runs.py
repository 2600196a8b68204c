"""The same images in two flow runs at once, each a process of its own: `python -m benchmarks.two_runs`.

Prints one JSON object: the time until both have ended, and the sum of their memory.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

FOLDERS = ("0/", "1/")


def main() -> None:
    """Start both, wait for both."""
    begun = time.monotonic()
    command = [sys.executable, "-m", "benchmarks.flow_run"]
    runs = [subprocess.Popen([*command, folder], stdout=subprocess.PIPE, text=True) for folder in FOLDERS]
    told = [json.loads(run.communicate()[0].strip().splitlines()[-1]) for run in runs]
    peak = sum(each["peak_mb"] for each in told)
    message = "; ".join(each["message"] for each in told)
    print(json.dumps({"message": message, "run_seconds": time.monotonic() - begun, "peak_mb": peak}))


if __name__ == "__main__":
    main()
