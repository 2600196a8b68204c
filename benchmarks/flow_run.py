"""One flow run in a process of its own, as a worker would start it: `python -m benchmarks.flow_run [FOLDER/]`.

The environment says where; all images under the images prefix, or in its folder, become videos. Prints one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time

from benchmarks.processes import peak_mb


def main() -> None:
    """Import, run, and print what it took."""
    begun = time.monotonic()
    from flows.generate import generate_videos  # noqa: PLC0415 - its import is part of what is measured

    imported = time.monotonic()

    async def run() -> str:
        images = f"s3://{os.environ['I2V_BUCKET']}/images/{''.join(sys.argv[1:])}"
        state = await generate_videos(images, prompt="it moves", return_state=True)
        return str(state.message)

    message = asyncio.run(run())
    told = {"message": message, "import_seconds": imported - begun, "run_seconds": time.monotonic() - imported}
    print(json.dumps({**told, "cpu": time.process_time(), "peak_mb": peak_mb()}))


if __name__ == "__main__":
    main()
