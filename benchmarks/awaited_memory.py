"""What of ours runs while videos are awaited by callback, and what memory it takes. Prints JSON. Linux alone.

    python -m benchmarks.awaited_memory --images 1000

Everything is real and on this machine: S3 and the provider's emulator, a Prefect server, the deployments, a worker, a
door. A run of the deployment `generate`, started as by hand, submits all images by callback and ends; then every
process below this one that is none of the outside is named with its memory (RSS counts shared pages in full, PSS by
share), at once and after a minute; what else was seen in that minute is named (the scheduled `reconcile`, should it
fall into it). At last the videos become ready, the provider calls back, and all must be stored. It ends with 1 where
anything but door, worker and server ran at those two moments, or fewer jobs were awaited than there are images.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
from prefect.client.orchestration import PrefectClient

from benchmarks.outside import Outside
from benchmarks.processes import PROC, ROOT, tree
from sandbox.ports import listen

SECRET = "a-secret-of-the-benchmark"  # noqa: S105 - nobody else's
PATIENCE_SECONDS = 1800
AGAIN_SECONDS = 60
SIZES = ("Rss", "Pss")
OURS = {"door": ("-m doors",), "worker": ("worker start",), "server": ("sandbox.prefect_server",)}


class Bench:
    """The world, and what of ours runs in it."""

    def __init__(self, outside: Outside, stack: ExitStack, images: int, render_seconds: int) -> None:
        outside.fresh(images, render_seconds=render_seconds)
        self.outside, self._stack, self.images = outside, stack, images
        with listen("127.0.0.1", 0) as free:
            port = free.getsockname()[1]
        home = f"127.0.0.1:{port}"
        self.url = f"http://{home}"
        self.env = outside.env(
            I2V_CALLBACK_SECRET=SECRET,
            I2V_CALLBACK_BASE_URL=self.url,
            I2V_DOOR_PORT=str(port),
            PATH=str(Path(sys.executable).parent),
            HOME=str(outside.folder),
            # a job that is late is not to be polled meanwhile
            I2V_CALLBACK_PATIENCE_SECONDS=str(PATIENCE_SECONDS * 2),
        )
        self.env["I2V_PRIVATE_HOSTS"] += f",{home}"

    def start(self) -> None:
        """The deployments, a worker, a door that is ready."""
        subprocess.run(self._command("deployments.setup"), cwd=ROOT, env=self.env, stdout=subprocess.PIPE, check=True)
        self._child("prefect", "--no-prompt", "worker", "start", "--pool", "i2v", log="worker")
        self._child("doors", log="door")
        until(self._is_ready)

    @staticmethod
    def _command(module: str, *arguments: str) -> list[str]:
        return [sys.executable, "-m", module, *arguments]

    def _child(self, *words: str, log: str) -> None:
        out = self._stack.enter_context((self.outside.folder / f"{log}.log").open("w"))
        child = subprocess.Popen(self._command(*words), cwd=ROOT, env=self.env, stdout=out, stderr=out)
        self._stack.callback(child.wait)
        self._stack.callback(child.terminate)

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/healthz", trust_env=False).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    async def submit(self) -> str:
        """Start the deployment `generate` as by hand; what its run said at its end."""
        parameters = {
            "images": f"s3://{self.outside.bucket}/images/",
            "prompt": "it moves",
            "delivery": "callback",
            "max_spend_usd": self.images,
        }
        async with PrefectClient(self.env["PREFECT_API_URL"]) as client:
            found = await client.read_deployment_by_name("generate/generate")
            run = await client.create_flow_run_from_deployment(found.id, parameters=parameters)
            while not (run.state and run.state.is_final()):
                await asyncio.sleep(1)
                run = await client.read_flow_run(run.id)
        return str(run.state.message)

    def processes(self, own: int) -> dict[str, list[int]]:
        """What runs below this process, but for S3 and the emulator, by what it is."""
        outside = {each for pid in self.outside.sandbox_pids for each in tree(pid)}
        found: dict[str, list[int]] = {}
        for pid in tree(own):
            if pid != own and pid not in outside and (words := _words(pid)):
                found.setdefault(_kind(words), []).append(pid)
        return found

    def count(self, state: str) -> int:
        """How many tasks the provider has in this state."""
        return sum(task["state"] == state for task in self.outside.ask("tasks")["tasks"])


def _words(pid: int) -> str:
    try:
        return (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def _kind(words: str) -> str:
    return next((kind for kind, marks in OURS.items() if any(mark in words for mark in marks)), "other")


def _memory(pids: list[int]) -> dict[str, float]:
    """Of these processes together, in MB."""
    texts = [(PROC / str(pid) / "smaps_rollup").read_text() for pid in pids]
    kb = {name: [int(re.findall(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)[0]) for text in texts] for name in SIZES}
    sizes = {f"{name.lower()}_mb": round(sum(each) / 1024, 1) for name, each in kb.items()}
    return {"processes": len(pids), **sizes}


def until(is_so: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> float:
    """Wait for it; how many seconds it took.

    Raises:
        RuntimeError: it did not become so.
    """
    begun = time.monotonic()
    while not is_so():
        if time.monotonic() - begun > seconds:
            raise RuntimeError(f"it did not become so within {seconds:g} s")
        time.sleep(0.5)
    return round(time.monotonic() - begun, 1)


def measure(bench: Bench, own: int) -> dict[str, Any]:
    """Submit, look, look again, and see all stored."""
    bench.start()
    begun = time.monotonic()
    told: dict[str, Any] = {"submitted": asyncio.run(bench.submit())}
    told["submit_seconds"] = round(time.monotonic() - begun, 1)
    told["at_once"] = _look(bench, own)
    told["seen_besides_meanwhile"] = _watch(bench, own, AGAIN_SECONDS)
    told["a_minute_later"] = _look(bench, own)
    print(json.dumps(told), file=sys.stderr, flush=True)  # for who does not wait for the rest
    told["all_stored_seconds_later"] = until(lambda: bench.outside.videos() >= bench.images)
    return told


def _look(bench: Bench, own: int) -> dict[str, Any]:
    """What is awaited and what runs, once a run's own process has ended."""
    until(lambda: bench.processes(own).keys() <= OURS.keys(), 120)
    found = {kind: _memory(pids) for kind, pids in bench.processes(own).items()}
    return {"awaited": bench.count("processing"), "what_runs": found}


def _watch(bench: Bench, own: int, seconds: float) -> list[str]:
    """What else runs in this time."""
    seen: set[str] = set()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        seen |= set(map(_words, bench.processes(own).get("other", ())))
        time.sleep(1)
    return sorted(seen)


def main() -> int:
    """Run it; 1 where something else ran, or a video is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--render-seconds", type=int, default=600, help="longer than all submits and a minute")
    asked = parser.parse_args()
    with Outside(prefect=True) as outside, ExitStack() as stack:
        bench = Bench(outside, stack, asked.images, asked.render_seconds)
        told = measure(bench, int((PROC / "self").resolve().name))
    print(json.dumps(told, indent=1))
    looks = [told["at_once"], told["a_minute_later"]]
    well = all(look["what_runs"].keys() == OURS.keys() and look["awaited"] == asked.images for look in looks)
    return int(not well)


if __name__ == "__main__":
    sys.exit(main())
