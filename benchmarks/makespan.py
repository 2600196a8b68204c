"""i2v against the floor: makespan, CPU and memory of each process, and the time from success to stored."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from benchmarks.processes import ChildResult, run_child
from benchmarks.report import Row, Table, median_or_zero, percentile_95
from benchmarks.servers import Servers

SIDES = {"floor": "benchmarks.floor", "i2v": "benchmarks.flow_run"}
RENDER_SECONDS, JITTER = 60.0, 0.3
VIDEO_BYTES = 3_000_000
LARGE_RUN, LARGE_RUN_BYTES = 2000, 300_000
"""S3 keeps everything in memory, so larger runs make smaller videos."""


@dataclass(frozen=True)
class Trial:
    """One run of one side. CPU is in milliseconds a video."""

    child: ChildResult
    store_seconds: list[float]
    cpu: dict[str, float]
    peaks: dict[str, float]


def measure(servers: Servers, side: str, images: int, faster: float) -> Trial:
    """Run one side once. Raise `RuntimeError` if a video is missing."""
    size = VIDEO_BYTES if images <= LARGE_RUN else LARGE_RUN_BYTES
    servers.reset(images, render_seconds=RENDER_SECONDS / faster, render_jitter=JITTER, file_bytes=size)
    servers.start_meters()
    child = run_child(SIDES[side], env=servers.env(faster=faster))
    seconds = {"the run": child.cpu, **servers.cpu_seconds()}
    if (found := len(servers.keys(".mp4"))) != images:
        raise RuntimeError(f"{side}: {found} of {images} videos exist: {child.output.get('message')}")
    peaks = {"the run": child.output["peak_mb"], **{name: each.peak_mb() for name, each in servers.meters.items()}}
    store_seconds = child.output.get("store_seconds") or _store_seconds(servers)
    return Trial(child, store_seconds, {name: each / images * 1000 for name, each in seconds.items()}, peaks)


def _store_seconds(servers: Servers) -> list[float]:
    """Return the seconds from the status response `success` to the manifest, for each video of i2v."""
    succeeded = {entry["task_id"]: entry["at"] + entry["seconds"] for entry in servers.requests("status")}
    return [
        datetime.fromisoformat(manifest["stored_at"]).timestamp() - succeeded[manifest["task_id"]]
        for manifest in servers.manifests()
    ]


def run(servers: Servers, images: int, trials: int, faster: float = 1) -> list[Table]:
    """Run both sides in turn."""
    done: dict[str, list[Trial]] = {side: [] for side in SIDES}
    for _ in range(trials):
        for side, found in done.items():
            found.append(measure(servers, side, images, faster))
    title = f"{images:,} images, {trials} trials each, in turn"
    notes = (
        f"Medians; rendering {RENDER_SECONDS / faster:g} s ± {JITTER:.0%}, polling {faster:g} times the vendor's pace."
    )
    child = median_or_zero(trial.child.output["child_mb"] for trial in done["i2v"])
    columns = ("process", *(f"{side}: {unit}" for side in SIDES for unit in ("CPU", "memory")))
    return [
        Table(f"Makespan: {title}", ("", *SIDES, "ratio"), _makespan_rows(done), notes),
        Table(
            f"CPU a video in ms, and peak memory in MB: {title}",
            columns,
            _process_rows(done),
            f"Largest child of i2v's run: {child:.0f} MB.",
        ),
    ]


def _makespan_rows(done: dict[str, list[Trial]]) -> list[Row]:
    values: dict[str, Callable[[Trial], float]] = {
        "process start to end, s": lambda trial: trial.child.seconds,
        "without start-up and exit, s": lambda trial: trial.child.output["run_seconds"],
        "success to stored, median, s": lambda trial: median_or_zero(trial.store_seconds),
        "success to stored, 95 %, s": lambda trial: percentile_95(trial.store_seconds),
    }
    rows: list[Row] = []
    for name, value in values.items():
        floor, ours = (median_or_zero(map(value, trials)) for trials in done.values())
        rows.append((name, floor, ours, ours / floor))
    return rows


def _process_rows(done: dict[str, list[Trial]]) -> list[Row]:
    def cells(name: str) -> list[float]:
        pairs = (
            (median_or_zero(t.cpu[name] for t in trials), median_or_zero(t.peaks[name] for t in trials))
            for trials in done.values()
        )
        return [cell for pair in pairs for cell in pair]

    return [(name, *cells(name)) for name in done["floor"][0].cpu]
