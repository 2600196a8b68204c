"""`python -m doors`: reads the settings, runs the door, and says in words what is wrong with them."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys

from i2v.errors import I2vError

HELP = """\
Turns notifications of new objects in a bucket into flow runs of the deployment generate/on-image.

It runs until it is stopped. All is set in the environment:

  I2V_BUCKET             the bucket of images/, videos/ and jobs/
  I2V_SQS_QUEUE_URL      the queue that the bucket's notifications go to
  I2V_DOOR_TOKEN         what webhooks to POST /s3 must bear; without it that address is shut
  I2V_CALLBACK_BASE_URL, _SECRET    let the provider's callbacks become runs of reconcile/collect (docs/callbacks.md)
  I2V_GALLERY_TOKEN      opens GET /gallery to who has it; without it there is none
  I2V_DOOR_HOST, _PORT   where it listens: 127.0.0.1, 8410
  PREFECT_API_URL        your Prefect server; make deploy puts the deployment there
  AWS_*                  as for any AWS tool
"""
EPILOG = """\
GET /healthz answers 200 when queue and Prefect are reachable, GET /metrics is for Prometheus. SIGTERM finishes what was
taken. A message is deleted, and a webhook answered 200, only after Prefect has the run. docs/doors.md tells how to set
up the bucket. Exit codes: 0 stopped by SIGTERM, 130 by Ctrl-C, 2 wrong settings.
"""


def main() -> int:
    """Run the door; the exit code."""
    parser = argparse.ArgumentParser(
        "python -m doors", description=HELP, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    os.environ.setdefault("DO_NOT_TRACK", "1")  # Prefect's telemetry looks at nothing else, while it is imported
    from doors.service import serve  # noqa: PLC0415 - Prefect takes seconds, and --help is to answer at once
    from i2v.logs import quiet_http_logs, use_json_lines  # noqa: PLC0415 - as above
    from i2v.settings import read_settings  # noqa: PLC0415 - as above

    quiet_http_logs()
    try:
        settings = read_settings()
        if settings.log_format == "json":
            use_json_lines([logging.getLogger()])
        return asyncio.run(serve(settings))
    except I2vError as error:
        sys.stderr.write(f"error: {error.message}\n" + (f"hint: {error.hint}\n" if error.hint else ""))
        return error.exit_code


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    os._exit(code)  # a long poll of SQS may be under way in a thread for 20 s more, and nobody waits for it
