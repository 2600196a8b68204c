"""What the door bears: notifications a second, its memory and lag, and Prefect away. Prints one JSON object.

    python -m benchmarks.door_notifications --rate 500 --seconds 60 --away 120

Everything is real and on this machine: S3's queue, a Prefect server, the door as a process of its own. First it sends
so many notifications a second and waits until each image is in a run; then the Prefect server is killed (-9) while
notifications keep coming, and started again. It ends with 1 where an image is missing from the runs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
from prefect.client.orchestration import PrefectClient

from sandbox import Sandbox
from sandbox.prefect_server import PrefectServer

ROOT = Path(__file__).parent.parent
RECORDED = ROOT / "tests" / "fixtures" / "notifications" / "s3.json"
PAGE = 200
OFFSET_KEYS = 1_000_000


class Bench:
    """The sandbox's queue, a Prefect server that can be killed, and a door."""

    def __init__(self, sandbox: Sandbox, folder: Path) -> None:
        self.sandbox = sandbox
        self.folder = folder
        self.server = PrefectServer(home=folder / "prefect")
        self.senders = ThreadPoolExecutor(8)
        self.sending: list[Future[None]] = []
        self.template = json.loads(RECORDED.read_bytes())

    def open_door(self) -> None:
        """Start the door, and wait until it listens."""
        env = os.environ | self.sandbox.env
        env |= {"PREFECT_API_URL": self.server.api_url, "PREFECT_HOME": str(self.folder / "home"), "I2V_DOOR_PORT": "0"}
        self.log = (self.folder / "door.log").open("w")
        self.door = subprocess.Popen([sys.executable, "-m", "doors"], cwd=ROOT, env=env, stderr=self.log)
        while not (found := re.search(r"listens on (http://\S+)", (self.folder / "door.log").read_text())):
            time.sleep(0.1)
        self.url = found[1]

    def send(self, first: int, number: int) -> None:
        """Ten notifications a request, all at once."""
        for start in range(first, first + number, 10):
            self.sending.append(self.senders.submit(self._send_ten, range(start, min(start + 10, first + number))))

    def _send_ten(self, numbers: range) -> None:
        entries: Any = [{"Id": str(number), "MessageBody": self._body(number)} for number in numbers]
        self.sandbox.sqs().send_message_batch(QueueUrl=str(self.sandbox.queue_url), Entries=entries)

    def _body(self, number: int) -> str:
        record = self.template["Records"][0]
        upload = {"key": f"images/{number}.jpg", "eTag": f"{number:032x}", "sequencer": f"{number:016X}"}
        place = record["s3"] | {"bucket": {"name": self.sandbox.bucket}, "object": upload}
        now = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
        return json.dumps({"Records": [record | {"s3": place, "eventTime": now}]})

    def left(self) -> int:
        """Messages in the queue, hidden or not."""
        names: Any = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        url = str(self.sandbox.queue_url)
        found = self.sandbox.sqs().get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        return sum(map(int, found.values()))

    def metric(self, name: str) -> float:
        """One of the door's."""
        found = re.search(rf"^{name} (\S+)$", httpx.get(f"{self.url}/metrics", trust_env=False).text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def peak_mb(self) -> float:
        """The door's most resident memory so far."""
        status = Path(f"/proc/{self.door.pid}/status").read_text()
        return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1024

    def cpu_seconds(self) -> float:
        """What the door has used."""
        fields = Path(f"/proc/{self.door.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def flow(self, rate: int, seconds: int, first: int) -> float:
        """Send at this rate; the rate that came about."""
        start = time.monotonic()
        for second in range(seconds):
            self.send(first + second * rate, rate)
            time.sleep(max(0.0, start + second + 1 - time.monotonic()))
        for sent in self.sending:
            sent.result()
        self.sending.clear()
        return round(rate * seconds / (time.monotonic() - start), 1)

    def drain(self, limit: float = 600) -> float:
        """Seconds until the queue is empty."""
        start = time.monotonic()
        while self.left() and time.monotonic() - start < limit:
            time.sleep(0.5)
        return time.monotonic() - start


async def _deploy(bench: Bench) -> None:
    async with PrefectClient(bench.server.api_url) as client:
        flow = await client.create_flow_from_name("generate")
        await client.create_deployment(flow, "on-image", enforce_parameter_schema=False)


async def _images(bench: Bench) -> set[str]:
    """The images in all runs."""
    found: set[str] = set()
    async with PrefectClient(bench.server.api_url) as client:
        offset = 0
        while runs := await client.read_flow_runs(limit=PAGE, offset=offset):
            found |= {image for run in runs for image in run.parameters["images"]}
            offset += PAGE
    return found


def _burst(bench: Bench, rate: int, seconds: int) -> dict[str, Any]:
    before = bench.cpu_seconds()
    real_rate = bench.flow(rate, seconds, 0)
    in_queue, in_hand = bench.left(), bench.metric("i2v_door_in_hand")
    drained = bench.drain()
    images, lag = bench.metric("i2v_door_images_total"), bench.metric("i2v_door_event_to_run_seconds_sum")
    return {
        "sent": rate * seconds,
        "sent_a_second": real_rate,
        "left_when_sending_ended": in_queue,
        "of_them_in_hand": in_hand,
        "drained_seconds_later": round(drained, 1),
        "peak_rss_mb": round(bench.peak_mb(), 1),
        "cpu_seconds": round(bench.cpu_seconds() - before, 1),
        "mean_event_to_run_seconds": round(lag / max(1, images), 2),
        "runs": bench.metric("i2v_door_runs_created_total"),
    }


def _away(bench: Bench, rate: int, seconds: int) -> dict[str, Any]:
    bench.server.kill()
    bench.flow(rate, seconds, OFFSET_KEYS)
    most, in_hand = bench.peak_mb(), bench.metric("i2v_door_in_hand")
    ready = httpx.get(f"{bench.url}/healthz", trust_env=False).status_code
    bench.server.start()
    return {
        "sent": rate * seconds,
        "healthz_meanwhile": ready,
        "in_hand": in_hand,
        "peak_rss_mb": round(most, 1),
        "drained_seconds_after_it_was_back": round(bench.drain(), 1),
    }


def main() -> int:
    """Run it; 1 where something was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, default=500, help="notifications a second")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--away", type=int, default=120, help="seconds without Prefect")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, Sandbox(notifications=True) as sandbox:
        bench = Bench(sandbox, Path(name))
        bench.server.start()
        try:
            asyncio.run(_deploy(bench))
            bench.open_door()
            told: dict[str, Any] = {"idle_rss_mb": round(bench.peak_mb(), 1)}
            told["burst"] = _burst(bench, asked.rate, asked.seconds)
            told["prefect_away"] = _away(bench, max(1, asked.rate // 10), asked.offline)
            expected = told["burst"]["sent"] + told["prefect_away"]["sent"]
            told["images_missing_from_runs"] = expected - len(asyncio.run(_images(bench)))
            bench.door.terminate()
            told["exit_code"] = bench.door.wait(40)
        finally:
            bench.door.kill()
            bench.server.stop()
    print(json.dumps(told, indent=1))
    return int(told["images_missing_from_runs"] != 0)


if __name__ == "__main__":
    sys.exit(main())
