"""A run whose images and deliveries are hostile: each has its own line, and the others are stored."""

from __future__ import annotations

import resource
from base64 import b64encode

from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import find_items
from i2v.media.decoder import DECODER, MEMORY_BYTES
from i2v.pipeline.generate import Steps, generate
from i2v.reports.run_report import Outcome
from sandbox import Sandbox
from sandbox.provider import Provider
from tests.support.hostile_files import hostile_files
from tests.support.odd_videos import make_film, with_forged_index
from tests.support.orders import OpenRun, put_photos

LENGTH = ("HTTP/1.1 200 OK", "Content-Length: {length}")


def peak_bytes() -> int:
    """Return the peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


async def test_hostile_images_and_videos_end_in_lines_of_their_own(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """Beside 40 hostile images and 8 hostile deliveries at once, 12 good images are stored; nothing is lost."""
    hostile = [file.body for file in hostile_files(80) if file.kind == "image"][:40]
    for number, body in enumerate(hostile):
        sandbox.put_image(f"images/hostile-{number:02}.jpg", body)
    put_photos(sandbox, 12)
    for body in (with_forged_index(make_film(), 1 << power) for power in range(20, 28)):
        provider.add_fault(on="file", kind="deliver", head=LENGTH, content=b64encode(body), times=2)
    async with new_run() as run:
        items = await find_items(f"s3://{sandbox.bucket}/images/", run.storage, run.settings)
        report, _ = await generate(run, items, RequestOptions(prompt="it moves"), Steps())
    by_image = {item.image.rpartition("/")[2]: item for item in report.items}
    assert len(by_image) == 52
    assert all(item.outcome is Outcome.STORED for name, item in by_image.items() if not name.startswith("hostile"))
    assert {item.outcome for item in report.items} <= {Outcome.STORED, Outcome.CACHED, Outcome.REFUSED, Outcome.FAILED}
    assert all(item.reason for item in report.items if item.outcome in {Outcome.REFUSED, Outcome.FAILED})
    billed = sum(provider.billed().values())
    assert billed == report.count(Outcome.STORED)
    assert max([await DECODER.run(peak_bytes) for _ in range(8)]) < 1.2 * MEMORY_BYTES
