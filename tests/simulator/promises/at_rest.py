"""What must hold once all has come to rest. Each check is one promise; `watch` checks what must hold at each submit."""

from __future__ import annotations

from collections import Counter, defaultdict
from decimal import Decimal
from typing import TYPE_CHECKING

from i2v.reports.run_report import Outcome
from tests.simulator.promises import published, reading
from tests.simulator.promises.reading import AttemptView, JobView

if TYPE_CHECKING:
    from tests.simulator.models.provider import Post, RenderTask
    from tests.simulator.world import World

ZERO = Decimal(0)


def check(world: World) -> None:
    """Accuse each broken promise."""
    jobs = reading.jobs(world.bucket)
    for one in (_posts, _tasks, _videos, _callbacks, _caps, _markers, _ends, _ledger_and_bill, _reports, _unknowns):
        one(world, jobs)
    published.check(world, jobs)
    for job in jobs.values():
        world.count(f"job {job.state}")
        world.count(f"job with {min(len(job.attempts), 3)} attempts")
        for attempt in job.attempts:
            world.count(f"attempt {attempt.end or 'open'}{' after all' if attempt.is_reopened else ''}")


def _attempt(jobs: dict[str, JobView], post: Post) -> AttemptView | None:
    job = jobs.get(post.job)
    return next((one for one in job.attempts if one.claim == post.claim), None) if job else None


def _posts(world: World, jobs: dict[str, JobView]) -> None:
    """An attempt is paid at most once."""
    paid = Counter(post.claim for post in world.provider.posts if post.is_billed)
    for claim, count in paid.items():
        if count > 1:
            world.accuse("paid once", f"claim {claim} was paid {count} times")


def _tasks(world: World, jobs: dict[str, JobView]) -> None:
    """Every paid task that is known was asked for until it ended, and its end is in its record."""
    recorded = {task: job for job in jobs.values() for task in job.task_ids}
    known = {task for process in world.processes if process.ended for task in process.received}
    for task in world.provider.tasks.values():
        job = recorded.get(task.id)
        if job is None:
            if task.id in known:
                world.accuse("task dropped", f"{task.id} of {task.post.job[:8]}/{task.post.attempt} is in no record")
        elif job.key != task.post.job:
            world.accuse("wrong job", f"{task.id} of {task.post.job[:8]} is in {job.key[:8]}")
        elif not world.drops[job.key]:
            _check_task(world, job, task)


def _check_task(world: World, job: JobView, task: RenderTask) -> None:
    if reading.task_page(world.bucket, task.id) != job.key:
        world.accuse("task page", f"the page of {task.id} does not name {job.key[:8]}")
    attempt = next(one for one in job.attempts if task.id in one.task_ids)
    if attempt.is_forgotten:  # it is charged, and its video is not wanted any more
        return
    if not task.end_was_seen:
        world.accuse("never asked", f"{task.id} of {job.key[:8]}/{attempt.number}: nobody saw its end; job {job.state}")
    elif not attempt.end:
        world.accuse("no end", f"{task.id} of {job.key[:8]}/{attempt.number} has ended, the attempt has not")
    elif not task.fail_code and job.state != "stored":
        world.accuse("not stored", f"{task.id} of {job.key[:8]}/{attempt.number} succeeded; job {job.state}")


def _videos(world: World, jobs: dict[str, JobView]) -> None:
    """A stored video is there, whole, with its manifest, and of its own task; one of another image is flagged."""
    for job in jobs.values():
        for attempt in job.attempts:
            if attempt.video_key and job.key not in world.removed:
                _check_video(world, job, attempt)


def _check_video(world: World, job: JobView, attempt: AttemptView) -> None:
    name = f"{job.key[:8]}/{attempt.number}"
    found = world.bucket.find(attempt.video_key)
    if found is None or reading.stem(attempt.video_key) + ".json" not in world.bucket.names():
        world.accuse("video", f"the video or manifest of {name} is missing")
        return
    task_id = found.body.decode(errors="replace").rpartition(" ")[2]
    if task_id not in attempt.task_ids:
        world.accuse("video", f"{name} has {found.body!r}")
    elif world.provider.tasks[task_id].is_damaged != attempt.video_key.endswith(".unverified.mp4"):
        world.accuse("unverified", f"{name} has {found.body!r} as {attempt.video_key}")
    elif world.provider.tasks[task_id].is_damaged and not any("unverified" in flag for flag in attempt.flags):
        world.accuse("flag", f"the video of {name} is unverified and not flagged")
    elif world.provider.tasks[task_id].fetched not in {"", job.image_sha256} and not attempt.flags:
        world.accuse("flag", f"the video of {name} is of another image and not flagged")


def _callbacks(world: World, jobs: dict[str, JobView]) -> None:
    """A callback that was settled without an error has brought its task to the attempt that it named."""
    for process in world.processes:
        entries = world.door.given.get(process.run_id, []) if process.report else []
        failed = {item.job for item in process.report.items if item.outcome is Outcome.FAILED} if process.report else {}
        for key, number, task_id in (entry.split("/") for entry in entries):
            job = jobs.get(key)
            if job and key not in failed and task_id not in job.task_ids:
                world.accuse("callback", f"{process.name} settled {task_id} of {key[:8]}/{number}, no attempt has it")


def _caps(world: World, jobs: dict[str, JobView]) -> None:
    """No limit is passed by a cent, by the provider's bill."""
    by_day: defaultdict[str, Decimal] = defaultdict(Decimal)
    by_run: defaultdict[str, Decimal] = defaultdict(Decimal)
    for post in world.provider.posts:
        if post.is_billed:
            attempt = _attempt(jobs, post)
            by_day[post.day] += post.price
            if attempt and attempt.day != post.day:
                world.accuse("day", f"POST #{post.number} was sent on {post.day} and counts for {attempt.day}")
            by_run[post.run_id] += post.price
    cap = world.settings.daily_cap_usd
    for day, usd in by_day.items():
        if cap is not None and usd > cap:
            world.accuse("day cap", f"${usd} on {day}, the cap is ${cap}")
    _check_limits(world)
    limits = {process.run_id: process.max_spend for process in world.processes if process.max_spend is not None}
    for run_id, limit in limits.items():
        if by_run[run_id] > limit:
            world.accuse("run limit", f"${by_run[run_id]} by {run_id}, its limit is ${limit}")


def _check_limits(world: World) -> None:
    """No limit by label is passed in a day or month, with what was spent before."""
    labels = {run_id: processes[0].label for run_id, processes in world.processes_by_run.items()}
    bills = [(post.day, labels[post.run_id], post.price) for post in world.provider.posts if post.is_billed]
    for whose, periods in world.settings.limits.items():
        for period, limit in periods.items():
            sums: defaultdict[str, Decimal] = defaultdict(Decimal)
            for day, label, usd in (*bills, *(world.plan.spent_before if period == "month" else ())):
                sums[day if period == "day" else day[:7]] += usd if whose in {"*", label} else ZERO
            for when, usd in sums.items():
                world.count(f"limit of a {period} {'reached' if usd == limit else 'kept'}")
                if usd > limit:
                    world.accuse(f"{period} limit", f"${usd} in {when} by {whose!r}, the limit is ${limit}")


def _markers(world: World, jobs: dict[str, JobView]) -> None:
    """There is a marker for each open attempt, and none else."""
    for key, number in reading.markers(world.bucket):
        job = jobs.get(key)
        if job is None or all(one.number != number or one.is_settled for one in job.attempts):
            world.accuse("needless marker", f"{key[:8]}/{number} is {job.state if job else 'not there'}")
    for job in jobs.values():
        for attempt in job.attempts:
            if not attempt.is_settled and not reading.has_marker(world.bucket, job.key, attempt.number):
                world.accuse("no marker", f"{job.key[:8]}/{attempt.number} of a job that is {job.state}")


def _ends(world: World, jobs: dict[str, JobView]) -> None:
    """Every image of a run that was not killed has one end in its report, and none is an internal error."""
    for process in world.processes:
        if process.report is None:
            continue
        for item in process.report.items:
            world.count(f"image {item.outcome}")
            if item.reason and "Internal error" in item.reason:
                world.accuse("internal error", f"{process.name}: {item.image}: {item.reason}")
        if process.images:
            lines = Counter(item.image for item in process.report.items)
            if lines != Counter(process.images):
                world.accuse("no end", f"{process.name} was given {process.images}, its report has {dict(lines)}")
    for job in jobs.values():
        if job.state in {"claimed", "submitted"}:
            world.accuse("open for ever", f"{job.key[:8]} is still {job.state}")


def _ledger_and_bill(world: World, jobs: dict[str, JobView]) -> None:
    """What the provider billed and a process learned is in the ledger, at its price, and nothing else."""
    posts = {post.claim: post for post in world.provider.posts}
    for job in jobs.values():
        for attempt in job.attempts:
            post = posts.get(attempt.claim)
            if (
                attempt.is_counted
                and not world.drops[job.key]
                and not world.adoptions[job.key]
                and (post is None or not post.is_exposed)
            ):
                world.accuse("bill", f"{job.key[:8]}/{attempt.number} is counted and was not paid")
            if post and attempt.price != post.price:
                world.accuse("bill", f"{job.key[:8]}/{attempt.number} costs ${post.price}, not ${attempt.price}")
    for post in world.provider.posts:
        billed = _attempt(jobs, post)
        if post.is_billed and billed is None:
            world.accuse("bill", f"POST #{post.number} was billed, and its attempt is gone from {post.job[:8]}")
        elif post.is_billed and post.task and billed and post.task in billed.task_ids and not billed.is_counted:
            world.accuse("bill", f"{post.task} is recorded and not counted")
    _days(world)


def _days(world: World) -> None:
    """What is reserved at rest covers the bill, to the cent where no write was lost and no process killed."""
    for run_id, processes in world.processes_by_run.items():
        posts = [post for post in world.provider.posts if post.run_id == run_id]
        billed = sum((post.price for post in posts if post.is_billed), ZERO)
        exposed = sum((post.price for post in posts if post.is_exposed), world.provider.never_sent_usd[run_id])
        reserved = reading.reserved_in_all(world.bucket, run_id)
        if billed > reserved:
            world.accuse("reserved", f"${billed} billed to {run_id}, ${reserved} reserved at rest")
        if reserved != exposed and not world.had_s3_faults and all(process.ended for process in processes):
            world.accuse("day total", f"{run_id} may have paid ${exposed}, the days have ${reserved}")


def _reports(world: World, jobs: dict[str, JobView]) -> None:
    """A run's report has what its submits cost: no less than they learned, no more than was billed."""
    for process in world.processes:
        if process.report is None or len(world.processes_by_run[process.run_id]) > 1:
            continue
        if any(world.drops[item.job] or world.adoptions[item.job] for item in process.report.items if item.job):
            continue  # what a person gives up counts in full, also if it was never sent
        posts = [post for post in world.provider.posts if post.process == process.name]
        most = sum((post.price for post in posts if post.is_billed or post.fate == "fail code"), ZERO)
        least = sum((post.price for post in posts if post.task in process.received), ZERO)
        if not least <= process.report.spent_usd <= most:
            spent = process.report.spent_usd
            world.accuse("report", f"{process.name} says ${spent}; learned ${least}, billed at most ${most}")
        found = reading.run_record(world.bucket, process.run_id)
        if found.get("report") and found["report"]["spent_usd"] != float(process.report.spent_usd):
            world.accuse("report", f"the record of {process.name} says {found['report']['spent_usd']}")


def _unknowns(world: World, jobs: dict[str, JobView]) -> None:
    """The last reconcile names every job that waits for a person."""
    last = next(process for process in reversed(world.processes) if process.name.startswith("rest-"))
    named = {item.job for item in last.report.items if item.outcome is Outcome.UNKNOWN} if last.report else set()
    if world.plan.has_garbage and last.report and reading.GARBAGE not in {item.job for item in last.report.items}:
        world.accuse("not named", f"{last.name} does not name the record that cannot be read")
    for job in jobs.values():
        if job.state == "unknown" and job.key not in named:
            world.accuse("not named", f"{job.key[:8]} is unknown, and {last.name} does not name it")
