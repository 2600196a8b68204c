"""`DemoUpload` uploads images to a running stack and prints each step until all of them are done.

It uses only what any user can see: the door's log, Prefect's API, the provider's request log and the bucket.
"""

import re
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from rich.console import Console

from sandbox.full_stack import FullStack

POLL_SECONDS = 0.1
TIMEOUT_SECONDS = 300
DOOR_LOG_LINE = re.compile(r"Started flow run (.+) \(([0-9a-f-]{36})\) with (\d+) image")
STARTED_STATES = {"PENDING": "a worker picked up the run", "RUNNING": "the run started"}
FINAL_STATES = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
Step = tuple[str, str]
"""A unique id, and the line to print."""


class DemoUpload:
    """Uploads the same image files once or more. A `.txt` file next to an image has its prompt."""

    def __init__(self, stack: FullStack, images: list[Path], console: Console) -> None:
        self._stack, self._sandbox = stack, stack.sandbox
        self._images = images
        self._names = {sha256(image.read_bytes()).hexdigest(): image.name for image in images}
        self._console = console
        self._printed: set[str] = set()
        self._states: dict[str, str] = {}
        """The flow runs of this upload."""
        self._images_in_runs = 0
        self._started = 0.0

    def upload(self) -> bool:
        """Upload the images, print each step, and return whether all flow runs completed.

        Raise `RuntimeError` if a part of the stack exits or the runs take too long.
        """
        self._images_in_runs, self._states = 0, {}
        self._started = time.monotonic()
        self._put_images()
        self._print(f"uploaded {', '.join(image.name for image in self._images)}")
        while self._images_in_runs < len(self._images) or not set(self._states.values()) <= FINAL_STATES:
            self._stack.check_running()
            if time.monotonic() > self._started + TIMEOUT_SECONDS:
                raise RuntimeError(f"the upload was not processed within {TIMEOUT_SECONDS} s")
            self._print_new_steps()
            time.sleep(POLL_SECONDS)
        return set(self._states.values()) == {"COMPLETED"}

    def _put_images(self) -> None:
        for image in self._images:
            prompt = image.with_name(f"{image.name}.txt")
            if prompt.exists():  # before the image, whose notification starts the run
                key = f"images/{prompt.name}"
                self._sandbox.s3().put_object(Bucket=self._sandbox.bucket, Key=key, Body=prompt.read_bytes())
            self._sandbox.put_image(f"images/{image.name}", image.read_bytes())

    def _print(self, line: str) -> None:
        seconds = f"+{time.monotonic() - self._started:.1f} s"
        self._console.print(f"{seconds:>8}  {line}", markup=False, soft_wrap=True)

    def _print_new_steps(self) -> None:
        open_runs = [run for run, state in self._states.items() if state not in FINAL_STATES]
        states = {run: self._stack.get(f"flow_runs/{run}")["state"] for run in open_runs}
        self._states |= {run: state["type"] for run, state in states.items()}
        started, finished = _run_steps(states)
        for key, line in (*self._door_steps(), *started, *self._provider_steps(), *self._bucket_steps(), *finished):
            if key not in self._printed:
                self._printed.add(key)
                self._print(line)

    def _door_steps(self) -> Iterator[Step]:
        for name, run, images in DOOR_LOG_LINE.findall(self._stack.door.output()):
            if run not in self._printed:
                self._states[run] = "SCHEDULED"
                self._images_in_runs += int(images)
            yield run, f'the door started flow run "{name}" with {images} image{"" if images == "1" else "s"}'

    def _provider_steps(self) -> Iterator[Step]:
        for task in list(self._sandbox.provider.tasks.values()):
            if name := self._names.get(task.image_sha256 or ""):
                yield task.id, f"submitted {name}: {task.id}, ${task.billed_usd}"

    def _bucket_steps(self) -> Iterator[Step]:
        for key in self._sandbox.keys("videos/"):
            name = Path(key).parent.name
            if key.endswith(".mp4"):
                yield key, f"stored    {name}: {key}"
            elif key.endswith(".refused.json") and key not in self._printed:
                yield key, f"refused   {name}: {self._sandbox.read_json(key)['reason']['message']}"


def _run_steps(states: dict[str, Any]) -> tuple[list[Step], list[Step]]:
    """Return the steps to print before the images' steps, and those to print after them."""
    started = [(f"{run} {line}", line) for run, state in states.items() if (line := STARTED_STATES.get(state["type"]))]
    finished = [
        (f"{run} finished", f"the run finished, {state['name']}: {state['message']}")
        for run, state in states.items()
        if state["type"] in FINAL_STATES
    ]
    return started, finished
