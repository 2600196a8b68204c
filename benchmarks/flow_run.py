"""One flow run in its own process, as a worker starts it: `python -m benchmarks.flow_run`. Prints a JSON object."""

import asyncio
import json
import os
import time

from benchmarks.processes import largest_child_mb, peak_mb


def main() -> None:
    """Make videos of all images in the bucket of the environment."""
    from flows.generate import generate_videos  # noqa: PLC0415 - its import counts as start-up

    begun = time.monotonic()

    async def run() -> str:
        images = f"s3://{os.environ['I2V_BUCKET']}/images/"
        state = await generate_videos(images, prompt="it moves", return_state=True)
        return str(state.message)

    message = asyncio.run(run())
    output = {"message": message, "run_seconds": time.monotonic() - begun, "peak_mb": peak_mb()}
    print(json.dumps(output | {"child_mb": largest_child_mb(os.getpid())}))


if __name__ == "__main__":
    main()
