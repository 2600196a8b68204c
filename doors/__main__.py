"""`python -m doors`: read the settings, run the door, and report wrong settings in words."""

import argparse
import asyncio
import logging
import os
import sys

from i2v.errors import I2vError
from i2v.logs import escape_controls, protect_logs, use_json_lines

HELP = """\
Turn notifications about new objects in a bucket into flow runs of the deployment generate/on-image.

The door runs until it is stopped. All settings come from the environment:

  I2V_BUCKET             the bucket with images/, videos/ and jobs/
  I2V_SQS_QUEUE_URL      the queue that receives the bucket's notifications
  I2V_DOOR_TOKEN         the bearer token for webhooks to POST /s3; without it that route is off
  I2V_CALLBACK_BASE_URL, _SECRET    turn the provider's callbacks into runs of reconcile/collect (docs/callbacks.md)
  I2V_GALLERY_TOKEN      the token for GET /gallery; without it the gallery is off
  I2V_DOOR_HOST, _PORT   the address to listen on: 127.0.0.1, 8410
  PREFECT_API_URL        your Prefect server; create the deployment with make deploy
  AWS_*                  as for any AWS tool
"""
EPILOG = """\
GET /healthz returns 200 while the queue and Prefect are reachable; GET /metrics is for Prometheus. On SIGTERM the door
finishes the work it has taken. It deletes a message, or answers a webhook with 200, only after Prefect has the flow
run. See docs/doors.md for the bucket's setup. Exit codes: 0 stopped by SIGTERM, 130 by Ctrl-C, 2 wrong settings, 1 a
part of the door failed.
"""


def main() -> int:
    """Run the door and return the exit code."""
    parser = argparse.ArgumentParser(
        "python -m doors", description=HELP, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    os.environ.setdefault("DO_NOT_TRACK", "1")  # Prefect reads it once, while it is imported
    protect_logs()
    from doors.service import serve  # noqa: PLC0415 - Prefect takes seconds to import, and --help must be fast
    from i2v.settings import read_settings  # noqa: PLC0415 - same reason

    try:
        settings = read_settings()
        if settings.log_format == "json":
            use_json_lines([logging.getLogger()])
        return asyncio.run(serve(settings))
    except I2vError as error:
        text = f"error: {error.message}\n" + (f"hint: {error.hint}\n" if error.hint else "")
        sys.stderr.write(escape_controls(text))
        return error.exit_code


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    os._exit(code)  # do not wait for a thread in an SQS long poll, which can take 20 s
