"""The data for browser tests: `world()` starts sandbox, Prefect server and door, and runs flows with every outcome."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

from i2v.ledger.job import JobRecord
from i2v.pricing import PRICES_USD
from i2v.request import Mode
from sandbox import Sandbox
from sandbox.prefect_server import PrefectServer
from sandbox.provider import ProviderOptions
from sandbox.synthetic_images import make_jpeg
from tests.support.door_process import DoorProcess
from tests.support.i2v_command import Result, bare_env, i2v
from tests.support.paths import ROOT

BUCKET = "photographs"
PATIENCE_SECONDS = 400
TOKEN = "the-token-of-the-gallery"
HOSTILE = "<img src=x onerror=alert(1)>&quot;'.jpg"
"""A file's name, which S3 takes as it does any other."""
KINDS = (
    ("trips/space", "autumn", Mode.STANDARD, 6),
    ("trips/coast", "autumn", Mode.STANDARD, 10),
    ("shop/shoes", "catalogue", Mode.PRO, 6),
    ("shop/bags", "catalogue", Mode.STANDARD, 6),
)
"""What the month before was made of: folder, label, mode and seconds."""
FLOW = "import asyncio, {module} as m; asyncio.run(m.{flow}(return_state=True))"


@dataclass(frozen=True)
class World:
    """The addresses of all servers, and the final states of the runs."""

    sandbox: Sandbox
    prefect: PrefectServer
    door: DoorProcess
    env: dict[str, str]
    runs: dict[str, Result]

    @property
    def s3_host(self) -> str:
        """Host and port of S3, which a browser has to reach."""
        return self.sandbox.aws.address


@contextmanager
def world() -> Iterator[World]:
    """Start everything and fill it with results, which takes some 40 s."""
    with (
        TemporaryDirectory(prefix="i2v-ui-", ignore_cleanup_errors=True) as folder,
        Sandbox(ProviderOptions(render_seconds=1, fast=True), bucket=BUCKET) as sandbox,
        PrefectServer() as prefect,
    ):
        own = {"PREFECT_API_URL": prefect.api_url, "PREFECT_HOME": f"{folder}/home", "DO_NOT_TRACK": "1"}
        env = bare_env(**sandbox.env, **own)
        runs = live_a_day(sandbox, env)
        with DoorProcess(env | {"I2V_GALLERY_TOKEN": TOKEN}, Path(folder) / "door.log") as door:
            yield World(sandbox, prefect, door, env, runs)


def live_a_day(sandbox: Sandbox, env: dict[str, str]) -> dict[str, Result]:
    """Run flows with every outcome, then the flows that report on them."""
    at, first = f"s3://{BUCKET}/images", {}
    _upload(sandbox)
    ask = ("--prompt", "Slow push in, natural light", "--json")
    first["hostile"] = i2v("run", f"{at}/odd/{HOSTILE}", *ask, env=env, seconds=PATIENCE_SECONDS)
    sandbox.provider.add_fault(on="task", kind="fails", code="Weird", message="the model gave up")
    first["failed"] = i2v("run", f"{at}/odd/broken.jpg", *ask, env=env, seconds=PATIENCE_SECONDS)
    sandbox.provider.add_fault(on="submit", kind="lost_answer")
    first["unknown"] = i2v("run", f"{at}/odd/lost.jpg", *ask, "--mode", "pro", env=env, seconds=PATIENCE_SECONDS)
    first["whole"] = i2v("run", f"{at}/trips/", *ask, "--label", "autumn", env=env, seconds=PATIENCE_SECONDS)
    sandbox.provider.set_options(render_seconds=600)
    first["open"] = i2v(
        "run", f"{at}/odd/slow.jpg", *ask, env=env | {"I2V_POLL_DEADLINE_SECONDS": "1"}, seconds=PATIENCE_SECONDS
    )
    first["again"] = i2v("run", f"{at}/trips/", *ask, env=env, seconds=PATIENCE_SECONDS)
    _remember_a_month(sandbox)
    _run_flow("flows.reconcile", "reconcile_videos", env)
    _run_flow("flows.report", "report_spend", env)
    return first


def _upload(sandbox: Sandbox) -> None:
    samples = ROOT / "samples"
    for folder, name in (("coast", "coffee.jpg"), ("space", "rocket.jpg"), ("space", "deep-field.jpg")):
        prompt = (samples / f"{name}.txt").read_text().strip()
        sandbox.put_image(f"images/trips/{folder}/{name}", (samples / name).read_bytes(), prompt=prompt)
    sandbox.put_image("images/trips/cats/too-small.png", (samples / "cat-too-small.png").read_bytes())
    for seed, name in enumerate(("coast/dunes.jpg", "hills/morning.jpg")):
        sandbox.put_image(f"images/trips/{name}", make_jpeg(960, 640, seed + 3))
    for seed, name in enumerate(("broken.jpg", "lost.jpg", "slow.jpg", HOSTILE)):
        sandbox.put_image(f"images/odd/{name}", make_jpeg(seed=seed + 20))


def _remember_a_month(sandbox: Sandbox) -> None:
    """Add a month of history to the ledger: copies of one of today's records with invented values."""
    key = next(key for key in sandbox.keys("jobs/") if key.count("/") == 1 and len(key) == len("jobs/.json") + 64)
    dice, now = random.Random(7), datetime.now(UTC)  # noqa: S311 - a picture, not a secret
    for back, (folder, label, mode, seconds) in product(range(1, 30), KINDS):
        record = JobRecord.model_validate_json(sandbox.read(key))
        for copy in range(dice.randrange(4)):
            claimed = {"claimed_at": now - timedelta(days=back), "price_usd": PRICES_USD[f"{mode}-{seconds}"]}
            attempt = record.attempts[-1].model_copy(update=claimed)
            name = sha256(f"{back} {folder} {copy}".encode()).hexdigest()
            image = record.image.model_copy(update={"name": f"{folder}/{copy}.jpg"})
            request = record.request.model_copy(update={"mode": mode, "duration": seconds})
            changed = {"key": name, "label": label, "image": image, "request": request, "attempts": (attempt,)}
            body = record.model_copy(update=changed).model_dump_json().encode()
            sandbox.s3().put_object(Bucket=BUCKET, Key=f"jobs/{name}.json", Body=body)


def _run_flow(module: str, flow: str, env: dict[str, str]) -> None:
    command = [sys.executable, "-c", FLOW.format(module=module, flow=flow)]
    subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True, timeout=PATIENCE_SECONDS)  # noqa: S603 - our own
