"""What the door bears of callbacks: how many a second, and how long the provider waits for its 200. Prints JSON.

    python -m benchmarks.door_callbacks --rates 50 100 200 --seconds 20

Everything is real and on this machine: S3 with a record of each job, a Prefect server, the door as a process of its
own. Callbacks come at a steady rate, each for a job of its own and by a connection of its own, and are timed from the
moment in which they were due; then as many as the door takes, `--at-once` at a time. It ends with 1 where one was not
answered 200, or a job is missing from the runs.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import httpx
from prefect.client.orchestration import PrefectClient

from benchmarks.outside import Outside
from benchmarks.processes import ROOT, Meter, run_child
from benchmarks.table import share_below
from i2v.apixo.callbacks import callback_url
from i2v.settings import Settings

SECRET = "a-secret-of-the-benchmark"  # noqa: S105 - nobody else's
PAGE = 200
ANSWER_SECONDS = 60
READY_SECONDS = 120


class Bench:
    """The world, a door in it, and jobs that are awaited."""

    def __init__(self, outside: Outside, jobs: int) -> None:
        outside.fresh(1)
        self.outside = outside
        self.api_url = outside.server.api_url if outside.server else ""
        self.env = outside.env(I2V_CALLBACK_SECRET=SECRET, I2V_CALLBACK_BASE_URL="http://127.0.0.1:1")
        self.env["I2V_PRIVATE_HOSTS"] += ",127.0.0.1:1"
        self.jobs = self._make_jobs(jobs)

    def _make_jobs(self, count: int) -> list[str]:
        """Submit one image by callback, and copy its record under other keys with other tasks."""
        self.outside.ask("faults", {"on": "callback", "kind": "lost", "times": None})
        images = f"s3://{self.outside.bucket}/images/"
        run_child("i2v.cli", "run", images, "--prompt", "it moves", "--delivery", "callback", env=self.env)
        s3, bucket = self.outside.s3(), self.outside.bucket
        listed = s3.list_objects_v2(Bucket=bucket, Prefix="jobs/", Delimiter="/")["Contents"]
        (name,) = (each["Key"] for each in listed if re.fullmatch(r"jobs/[0-9a-f]{64}\.json", each["Key"]))
        record = json.loads(s3.get_object(Bucket=bucket, Key=name)["Body"].read())
        keys = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(count)]

        def put(key: str) -> None:
            attempt = record["attempts"][0] | {"task_id": _task(key)}
            body = json.dumps(record | {"key": key, "attempts": [attempt]}, indent=1)
            s3.put_object(Bucket=bucket, Key=f"jobs/{key}.json", Body=body.encode())

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(put, keys))
        return keys

    async def deploy(self) -> None:
        """What the door starts; nobody runs it here."""
        async with PrefectClient(self.api_url) as client:
            for flow_name, name in (("generate", "on-image"), ("reconcile", "collect")):
                flow = await client.create_flow_from_name(flow_name)
                await client.create_deployment(flow, name, enforce_parameter_schema=False)

    def open_door(self, stack: ExitStack) -> None:
        """Start it, and wait until it is ready."""
        path = self.outside.folder / "door.log"
        log = stack.enter_context(path.open("w"))
        env = self.env | {"I2V_DOOR_PORT": "0", "PATH": "", "HOME": str(self.outside.folder)}
        self.door = subprocess.Popen([sys.executable, "-m", "doors"], cwd=ROOT, env=env, stderr=log)
        stack.callback(self.door.wait)
        stack.callback(self.door.terminate)
        deadline = time.monotonic() + READY_SECONDS
        while not (found := re.search(r"listens on (http://\S+)", path.read_text())) or not self._is_ready(found[1]):
            if self.door.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the door is not ready:\n{path.read_text()[-2000:]}")
            time.sleep(0.1)
        self.url = found[1]
        self.meter = Meter(self.door.pid)

    @staticmethod
    def _is_ready(url: str) -> bool:
        return httpx.get(f"{url}/healthz", trust_env=False).status_code == httpx.codes.OK

    def requests(self, keys: list[str]) -> list[bytes]:
        """The provider's callback of each job, as bytes on the wire."""
        settings = Settings(I2V_CALLBACK_BASE_URL=self.url, I2V_CALLBACK_SECRET=SECRET, I2V_BUCKET=self.outside.bucket)
        return [_request(callback_url(settings, key, 1), _task(key)) for key in keys]

    async def post(self, request: bytes, due: float) -> tuple[int, float]:
        """The status, and the seconds since it was due."""
        parts = urlsplit(self.url)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
                writer.write(request)
                answer = await reader.read()
                writer.close()
        except (OSError, TimeoutError):
            return 0, time.monotonic() - due
        return int(answer.split()[1]) if answer else 0, time.monotonic() - due

    async def steady(self, keys: list[str], rate: float) -> list[tuple[int, float]]:
        """One after the other at this rate, whether or not the earlier ones were answered."""
        start = time.monotonic() + 0.1
        posts = []
        for number, request in enumerate(self.requests(keys)):
            due = start + number / rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            posts.append(asyncio.create_task(self.post(request, due)))
        return await asyncio.gather(*posts)

    async def all_it_takes(self, keys: list[str], at_once: int) -> list[tuple[int, float]]:
        """So many at once, the next as soon as one is answered."""
        waiting = self.requests(keys)
        answers: list[tuple[int, float]] = []

        async def caller() -> None:
            while waiting:
                answers.append(await self.post(waiting.pop(), time.monotonic()))

        await asyncio.gather(*(caller() for _ in range(at_once)))
        return answers

    def told(self, answers: list[tuple[int, float]], seconds: float) -> dict[str, Any]:
        """What came of one way of sending."""
        times = [1000 * taken for _, taken in answers]
        statuses = [status for status, _ in answers]
        return {
            "callbacks": len(answers),
            "a_second": round(len(answers) / seconds, 1),
            "not_answered_200": sum(status != httpx.codes.OK for status in statuses),
            "ms": {name: round(share_below(times, share), 1) for name, share in SHARES.items()},
            "door_cpu_ms_each": round(1000 * self.meter.spent() / len(answers), 2),
            "door_peak_rss_mb": round(self.meter.peak_mb(), 1),
        }


SHARES = {"p50": 0.5, "p99": 0.99, "most": 1.0}


def _task(key: str) -> str:
    return f"task_{key[:32]}"


def _request(url: str, task_id: str) -> bytes:
    parts = urlsplit(url)
    data = {
        "taskId": task_id,
        "state": "success",
        "resultJson": json.dumps({"resultUrls": ["https://a.example/v.mp4"]}),
    }
    body = json.dumps({"code": 200, "message": "success", "data": data}).encode()
    head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
    return f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def _told_to_prefect(bench: Bench) -> tuple[int, set[str]]:
    """How many runs there are, and the jobs that they name."""
    runs, found = 0, set[str]()
    async with PrefectClient(bench.api_url) as client:
        while page := await client.read_flow_runs(limit=PAGE, offset=runs):
            runs += len(page)
            found |= {job.partition("/")[0] for run in page for job in run.parameters.get("jobs", ())}
    return runs, found


async def measure(bench: Bench, rates: list[int], seconds: int, at_once: int) -> dict[str, Any]:
    """All rates in turn, then all it takes."""
    ways: dict[str, Any] = {}
    left = list(bench.jobs)
    for rate in [*rates, 0]:
        keys, left = (left[: rate * seconds], left[rate * seconds :]) if rate else (left, [])
        bench.meter.begin()
        before, begun = (await _told_to_prefect(bench))[0], time.monotonic()
        answers = await (bench.steady(keys, rate) if rate else bench.all_it_takes(keys, at_once))
        took = time.monotonic() - begun
        way = f"{rate} a second" if rate else f"{at_once} at once"
        ways[way] = bench.told(answers, took) | {"runs": (await _told_to_prefect(bench))[0] - before}
    named = (await _told_to_prefect(bench))[1]
    return {**ways, "jobs_missing_from_runs": len(set(bench.jobs) - named)}


def main() -> int:
    """Run it; 1 where something was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=int, nargs="*", default=[50, 100, 200], help="callbacks a second")
    parser.add_argument("--seconds", type=int, default=20, help="how long at each rate")
    parser.add_argument("--at-once", type=int, default=64)
    parser.add_argument("--most", type=int, default=5000, help="callbacks when all is sent that it takes")
    asked = parser.parse_args()
    with Outside(prefect=True) as outside, ExitStack() as stack:
        bench = Bench(outside, sum(asked.rates) * asked.seconds + asked.most)
        asyncio.run(bench.deploy())
        bench.open_door(stack)
        told = asyncio.run(measure(bench, asked.rates, asked.seconds, asked.at_once))
    print(json.dumps(told, indent=1))
    lost = told.pop("jobs_missing_from_runs")
    return int(bool(lost or any(way["not_answered_200"] for way in told.values())))


if __name__ == "__main__":
    sys.exit(main())
