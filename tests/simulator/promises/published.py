"""Published copies (`I2V_PUBLISH_AS`): one image a name, whole, the newest, and none is missing at rest."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from tests.simulator.promises import reading
from tests.simulator.promises.reading import JobView

if TYPE_CHECKING:
    from tests.simulator.process import Process
    from tests.simulator.world import World


def name_of(world: World, image: str) -> str:
    """Return what the names of an image's copies begin with, empty if it has none."""
    template, key = world.settings.publish_as or "", image.removeprefix("s3://b-1/")
    if "sku" not in template:
        return f"published/{key.removeprefix('images/').removesuffix('.jpg')}" if template else ""
    skus = [upload.sku for upload in world.plan.uploads if upload.key == key]
    return f"published/{skus[0]}" if skus else ""


def owner(world: World, key: str) -> str:
    """Return whose video a published manifest describes, empty if there is none."""
    return str(_json(world, key).get("image", {}).get("label", ""))


def _json(world: World, key: str) -> dict[str, Any]:
    found = world.bucket.find(key)
    content: dict[str, Any] = json.loads(found.body) if found else {}
    return content


def check_post(process: Process, image: str, what: str) -> None:
    """Check that the process has paid for no other image that would get the same name."""
    name = name_of(process.world, image)
    if name and process.names.setdefault(name, image) != image:
        process.world.accuse("shared name", f"{what}: {process.names[name]} would be {name}, too")


def check(world: World, jobs: dict[str, JobView]) -> None:
    """Check what is published once all is at rest."""
    for key in [name for name in world.bucket.names() if name.startswith("published/") and name.endswith(".json")]:
        world.count("published")
        _check_whole(world, key)
    for job in jobs.values():
        if job.state == "stored" and job.key not in world.removed:
            _check_newest(world, job)


def _check_whole(world: World, key: str) -> None:
    """The video is that of the manifest's job, and all three files are of one image."""
    manifest = _json(world, key)
    label, sha256 = manifest["image"]["label"], manifest["video"]["sha256"]
    image = hashlib.sha256(label.encode()).hexdigest()
    for ending in (".mp4", ".jpg"):
        found = world.bucket.find(key.removesuffix(".json") + ending)
        if found is None or (found.metadata["image"], found.metadata["sha256"]) != (image, sha256):
            world.accuse("half published", f"{key} is of {label}, {ending} is {dict(found.metadata) if found else 0}")
        elif ending == ".mp4" and hashlib.sha256(found.body).hexdigest() != sha256:
            world.accuse("half published", f"{key} describes another video")


def _check_newest(world: World, job: JobView) -> None:
    """A stored video is published, unless a newer one of its image is, or its name is another image's."""
    name = name_of(world, job.image)
    video = next((one.video_key for one in reversed(job.attempts) if one.video_key), "")
    if not name or ".unverified" in video or ".attempt-" in video:
        return
    shown = _json(world, f"{name}.json")
    if not shown:
        world.accuse("not published", f"{job.key[:8]} of {job.image} is stored, and {name} is missing")
    elif shown["image"]["label"] == job.image and shown["job"] != job.key:
        mine = _json(world, f"{reading.stem(video)}.json")
        if mine["stored_at"] > shown["stored_at"]:
            world.accuse("not published", f"{name} shows {shown['job'][:8]}, and {job.key[:8]} is newer")
