"""`i2v forget`: nothing of an erased image is found, and it is not made again unless a person names it."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from i2v.erasure.erase import Erasure
from tests.simulator.promises.reading import JobView

if TYPE_CHECKING:
    from tests.simulator.process import Process
    from tests.simulator.world import World


class Erased:
    """The image versions of one world that were erased."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._versions: dict[tuple[str, str], frozenset[Process]] = {}
        """By address and etag: the processes that had ended by then."""
        self.is_complete: dict[str, bool] = {}
        """By address: whether nothing was left the last time."""

    def note(self, label: str, found: Erasure) -> None:
        """Note what a command has done."""
        world = self._world
        self.is_complete[label] = found.is_complete
        world.count(f"erasure {'complete' if found.is_complete else 'refused' if found.refused else 'not complete'}")
        over = frozenset(process for process in world.processes if process.over)
        if image := world.bucket.find(label.removeprefix("s3://b-1/")):
            self._versions |= {(one.label, image.etag): over for one in found.erased}

    def check_post(self, process: Process, job: JobView, what: str) -> None:
        """Check that a submit is not for an erased image that nobody has named since."""
        over = self._versions.get((job.image, job.etag))
        if over is None:
            return
        named = [one for one in self._world.processes if one not in over and job.image in one.named]
        if not named:
            self._world.accuse("erased", f"{what}: {job.image} was erased")
        self._world.count("erased image made again by its name")


def check_nothing_is_left(world: World, key: str) -> None:
    """Search the bucket for the address of an image, if the command said that nothing is left of it."""
    label = f"s3://b-1/{key}"
    if not world.erased.is_complete.get(label):
        return
    name, digest = key.removeprefix("images/"), hashlib.sha256(label.encode()).hexdigest()
    named = re.compile(rb"(?<![0-9a-f-])" + re.escape(name.encode()))  # posters are 0123abcd1.jpg or .attempt-1.jpg
    for uri, found in world.bucket.objects.items():
        is_named = named.search(uri.key.encode() + b"\n" + found.body) or found.metadata.get("image") == digest
        if is_named and not uri.key.startswith("images/"):
            world.accuse("erased", f"{uri.key} still names {label}")
