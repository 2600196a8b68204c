"""What becomes of an upload, told as it happens: `UploadWatcher`. It knows nothing but what anybody can look at.

The door's log, Prefect's API, the provider's journal and the bucket are looked at in turn, and each new fact is a line
with the seconds since the upload.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from rich.console import Console

from sandbox.full_stack import FullStack

LOOK_SECONDS = 0.1
MOST_SECONDS = 300
DOOR_TOLD = re.compile(r"(\d+) images -> run (.+) \(([0-9a-f-]{36})\)")
STATES = {"PENDING": "a worker took the run", "RUNNING": "the run began"}
"""What Prefect says of a run on its way; its end brings words of its own."""
ENDS = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
Fact = tuple[str, str]
"""What makes it one fact, and its words."""


class UploadWatcher:
    """One upload after the other into a running pipeline. `photographs` are files, with their prompts beside them."""

    def __init__(self, pipeline: FullStack, photographs: list[Path], console: Console) -> None:
        self._pipeline, self._box = pipeline, pipeline.box
        self._photographs = photographs
        self._names = {sha256(photograph.read_bytes()).hexdigest(): photograph.name for photograph in photographs}
        self._console = console
        self._told: set[str] = set()
        self._states: dict[str, str] = {}
        """Of this upload's runs."""
        self._images = 0
        """In those runs."""
        self._began = 0.0

    def upload(self) -> bool:
        """Put the photographs into the bucket, tell what comes of it, and say whether all runs ended well.

        Raises:
            RuntimeError: a part of the pipeline has ended, or nothing more comes of the upload.
        """
        self._images, self._states = 0, {}
        self._began = time.monotonic()
        self._put()
        self._say(f"in the bucket: {', '.join(photograph.name for photograph in self._photographs)}")
        while not self._is_over:
            self._pipeline.check()
            if time.monotonic() > self._began + MOST_SECONDS:
                raise RuntimeError(f"nothing more came of it within {MOST_SECONDS} s")
            self._look()
            time.sleep(LOOK_SECONDS)
        return set(self._states.values()) == {"COMPLETED"}

    def _put(self) -> None:
        for photograph in self._photographs:
            prompt = photograph.with_name(f"{photograph.name}.txt")
            if prompt.exists():  # first, so that it lies there when the image is told of
                self._box.s3().put_object(
                    Bucket=self._box.bucket, Key=f"images/{prompt.name}", Body=prompt.read_bytes()
                )
            self._box.put_image(f"images/{photograph.name}", photograph.read_bytes())

    @property
    def _is_over(self) -> bool:
        """Whether all that was uploaded is in runs, and all of them have ended."""
        return self._images >= len(self._photographs) and set(self._states.values()) <= ENDS

    def _say(self, words: str) -> None:
        self._console.print(f"{f'+{time.monotonic() - self._began:.1f} s':>8}  {words}", markup=False, soft_wrap=True)

    def _look(self) -> None:
        states = {run: self._pipeline.get(f"flow_runs/{run}")["state"] for run in self._open}
        self._states |= {run: state["type"] for run, state in states.items()}
        begun, ended = _of_runs(states)
        for fact, words in (*self._of_door(), *begun, *self._of_provider(), *self._of_bucket(), *ended):
            if fact not in self._told:
                self._told.add(fact)
                self._say(words)

    @property
    def _open(self) -> list[str]:
        return [run for run, state in self._states.items() if state not in ENDS]

    def _of_door(self) -> Iterator[Fact]:
        for images, name, run in DOOR_TOLD.findall(self._pipeline.door.said()):
            if run not in self._told:
                self._states[run] = "SCHEDULED"
                self._images += int(images)
            yield run, f"the door told Prefect: run “{name}” of {images} images"

    def _of_provider(self) -> Iterator[Fact]:
        for task in list(self._box.provider.tasks.values()):
            if name := self._names.get(task.image_sha256 or ""):
                yield task.id, f"submitted {name}: {task.id}, ${task.billed_usd}"

    def _of_bucket(self) -> Iterator[Fact]:
        for key in self._box.keys("videos/"):
            name = Path(key).parent.name
            if key.endswith(".mp4"):
                yield key, f"stored    {name}: {key}"
            elif key.endswith(".refused.json") and key not in self._told:
                yield key, f"refused   {name}: {self._box.read_json(key)['reason']['message']}"


def _of_runs(states: dict[str, Any]) -> tuple[list[Fact], list[Fact]]:
    """What is told of runs before that which they did, and what after it."""
    begun = [(f"{run} {word}", word) for run, state in states.items() if (word := STATES.get(state["type"]))]
    ended = [
        (f"{run} ended", f"the run ended, {state['name']}: {state['message']}")
        for run, state in states.items()
        if state["type"] in ENDS
    ]
    return begun, ended
