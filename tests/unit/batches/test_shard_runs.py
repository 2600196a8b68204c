"""Which runs of shards are started, and when: `Supervisor`, over runs that a test scripts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from i2v.batches import shard_runs
from i2v.batches.shard_runs import MAX_ATTEMPTS, ShardRun, ShardState, Supervisor
from i2v.errors import I2vError
from i2v.ledger.attempt import Reason
from i2v.pipeline.submit_brake import LIMIT

SPENT = Reason(code=LIMIT, message="max_spend_usd leaves nothing to spend")


class Unavailable(I2vError):
    """Prefect does not respond."""

    retryable = True


class ScriptedRuns:
    """Runs that end one poll after they were started; `crashing` shards crash in their first attempts."""

    def __init__(self, crashing: dict[int, int] | None = None) -> None:
        self.crashing = crashing or {}
        self.existing: dict[tuple[int, int], ShardRun] = {}
        self.started: list[tuple[int, int]] = []
        self.most_open = 0
        self.cancelled: list[int] = []
        self.failures = 0
        self.ends = True
        self.first_state = ShardState.RUNNING

    def _fail(self) -> None:
        if self.failures:
            self.failures -= 1
            raise Unavailable("Prefect does not respond")

    async def find(self, numbers: Sequence[int]) -> list[ShardRun]:
        """Return the newest attempt of each shard."""
        newest = dict(sorted(self.existing.items()))
        return list({number: run for (number, _), run in newest.items() if number in numbers}.values())

    async def start(self, number: int, attempt: int) -> ShardRun:
        """Start a run once."""
        self._fail()
        if (number, attempt) not in self.existing:
            self.started.append((number, attempt))
            self.existing[number, attempt] = ShardRun(number, attempt, f"{number}-{attempt}", self.first_state)
        running = [run for run in self.existing.values() if not run.state.is_final]
        self.most_open = max(self.most_open, len(running))
        return self.existing[number, attempt]

    async def read(self, runs: Sequence[ShardRun]) -> list[ShardRun]:
        """Let the runs end."""
        self._fail()
        for run in runs:
            crashes = self.crashing.get(run.number, 0) >= run.attempt
            if run.number in self.cancelled:
                self.existing[run.number, run.attempt] = replace(run, state=ShardState.CANCELLED)
            elif self.ends:
                end = ShardState.CRASHED if crashes else ShardState.ENDED
                self.existing[run.number, run.attempt] = replace(run, state=end)
        return [self.existing[run.number, run.attempt] for run in runs]

    async def cancel(self, runs: Sequence[ShardRun]) -> None:
        """Cancel runs."""
        self.cancelled += [run.number for run in runs]


class Batch:
    """A supervisor over scripted runs; `polls_until_cancel` polls later it is cancelled."""

    def __init__(self, runs: ScriptedRuns, shards: int, max_parallel: int, polls_until_cancel: int = 10**6) -> None:
        self.reported: set[int] = set()
        self.spent_after = 10**6
        """How many shards may start before the limit is spent."""
        self.runs = runs
        self.ended: list[int] = []
        self.polls_left = polls_until_cancel
        self.supervisor = Supervisor(
            runs,
            shards,
            max_parallel,
            on_end=self.has_report,
            why_stop=self.why_stop,
            reserved_seconds=0,
            sleep=self.sleep,
            is_cancelled=lambda: self.polls_left <= 0,
        )

    async def why_stop(self) -> Reason | None:
        """Return the limit once it is spent."""
        return SPENT if len(self.runs.started) >= self.spent_after else None

    async def has_report(self, number: int) -> bool:
        """Note an end, and tell whether the shard wrote a report."""
        self.ended.append(number)
        return number in self.reported

    async def sleep(self, _seconds: float) -> None:
        """Count a poll."""
        self.polls_left -= 1


async def test_all_shards_run_in_order_and_never_more_than_allowed_at_once() -> None:
    """Seven shards with two at once are each started once, in order."""
    runs = ScriptedRuns()
    batch = Batch(runs, 7, 2)
    await batch.supervisor.run_all()
    assert runs.started == [(number, 1) for number in range(1, 8)]
    assert runs.most_open == 2
    assert sorted(batch.ended) == list(range(1, 8))


async def test_a_crashed_shard_is_started_again_as_its_next_attempt() -> None:
    """A shard that crashed once runs again, with another key."""
    runs = ScriptedRuns({2: 1})
    await Batch(runs, 3, 3).supervisor.run_all()
    assert sorted(runs.started) == [(1, 1), (2, 1), (2, 2), (3, 1)]


async def test_a_shard_that_always_crashes_is_given_up() -> None:
    """The number of attempts is bounded, and the others go on."""
    runs = ScriptedRuns({1: 10**6})
    batch = Batch(runs, 2, 1)
    await batch.supervisor.run_all()
    assert runs.started == [*((1, attempt) for attempt in range(1, MAX_ATTEMPTS + 1)), (2, 1)]
    assert batch.supervisor.newest[1].state is ShardState.CRASHED


async def test_a_crash_after_the_report_is_no_reason_to_start_again() -> None:
    """A process that is killed after it has written its report has done its work."""
    runs = ScriptedRuns({1: 1})
    batch = Batch(runs, 1, 1)
    batch.reported = {1}
    await batch.supervisor.run_all()
    assert runs.started == [(1, 1)]


async def test_a_parent_that_starts_again_finds_its_shards() -> None:
    """It starts only what has no run, and waits for the runs that are open."""
    runs = ScriptedRuns()
    first = Batch(runs, 4, 2, polls_until_cancel=1)
    runs.ends = False
    await first.supervisor._start_more()  # noqa: SLF001 - the first process is killed here
    runs.ends = True
    second = Batch(runs, 4, 2)
    await second.supervisor.find_earlier()
    await second.supervisor.run_all()
    assert sorted(runs.started) == [(number, 1) for number in range(1, 5)]
    assert sorted(second.ended) == [1, 2, 3, 4]


async def test_an_outage_of_prefect_delays_and_loses_nothing() -> None:
    """Requests that fail are repeated; each shard has one run."""
    runs = ScriptedRuns()
    runs.failures = 5
    batch = Batch(runs, 3, 2)
    await batch.supervisor.run_all()
    assert runs.started == [(1, 1), (2, 1), (3, 1)]


async def test_an_error_that_only_a_person_can_correct_ends_the_batch() -> None:
    """A rejected request is not repeated for ever."""

    class Rejecting(ScriptedRuns):
        async def start(self, number: int, attempt: int) -> ShardRun:
            raise I2vError(f"shard {number} is rejected")

    with pytest.raises(I2vError, match="shard 1 is rejected"):
        await Batch(Rejecting(), 2, 2).supervisor.run_all()


async def test_a_rejection_in_the_middle_waits_for_what_was_started() -> None:
    """A batch that can start no further shard still reports those that run."""

    class RejectingLater(ScriptedRuns):
        async def start(self, number: int, attempt: int) -> ShardRun:
            if number > 2:
                raise I2vError("the deployment was deleted")
            return await super().start(number, attempt)

    batch = Batch(RejectingLater(), 4, 3)
    await batch.supervisor.run_all()
    assert batch.ended == [1, 2]


async def test_a_cancel_reaches_the_open_shards_and_starts_no_other() -> None:
    """Open runs are cancelled; a shard that has no run gets none."""
    runs = ScriptedRuns()
    runs.ends = False
    batch = Batch(runs, 5, 2, polls_until_cancel=3)
    await batch.supervisor.run_all()
    assert (runs.started, runs.cancelled) == ([(1, 1), (2, 1)], [1, 2])
    assert batch.supervisor.open_runs == []


async def test_a_cancel_is_repeated_until_prefect_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancel that does not reach Prefect is sent again: a shard that goes on would submit."""
    monkeypatch.setattr(shard_runs, "FIRST_POLL_SECONDS", 0.01)

    class Lossy(ScriptedRuns):
        asked = 0

        async def cancel(self, runs: Sequence[ShardRun]) -> None:
            self.asked += 1
            if self.asked == 2:
                self.existing |= {(r.number, r.attempt): replace(r, state=ShardState.CANCELLING) for r in runs}
            if self.asked == 6:
                self.cancelled.append(1)
            assert bool(runs) is (self.asked <= 2)

    runs = Lossy()
    runs.ends = False
    batch = Batch(runs, 1, 1, polls_until_cancel=1)
    await batch.supervisor.run_all()
    assert (runs.asked, batch.supervisor.open_runs) == (6, [])


async def test_a_cancel_reaches_a_shard_whose_start_was_not_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run exists in Prefect though the batch never heard of it; nothing else would end it."""
    monkeypatch.setattr(shard_runs, "FIRST_POLL_SECONDS", 0.01)

    class Unanswered(ScriptedRuns):
        async def start(self, number: int, attempt: int) -> ShardRun:
            run = await super().start(number, attempt)
            if number == 2:
                raise Unavailable("Prefect does not respond")
            return run

    runs = Unanswered()
    runs.ends = False
    batch = Batch(runs, 3, 3, polls_until_cancel=1)
    await batch.supervisor.run_all()
    assert (sorted(set(runs.cancelled)), batch.supervisor.open_runs) == ([1, 2], [])


async def test_a_cancel_reaches_a_shard_that_prefect_starts_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy server may start the run after it was first looked for; it would submit after the batch was cancelled."""
    monkeypatch.setattr(shard_runs, "FIRST_POLL_SECONDS", 0.01)

    class Late(ScriptedRuns):
        looks = 0

        async def start(self, number: int, attempt: int) -> ShardRun:
            raise Unavailable(f"Prefect does not respond: shard {number}, attempt {attempt}")

        async def find(self, numbers: Sequence[int]) -> list[ShardRun]:
            self.looks += 1
            if self.looks == 3:
                await super().start(1, 1)
            return await super().find(numbers)

    runs = Late()
    runs.ends = False
    batch = Batch(runs, 1, 1, polls_until_cancel=1)
    await batch.supervisor.run_all()
    assert (set(runs.cancelled), batch.supervisor.open_runs) == ({1}, [])


async def test_an_earlier_attempt_does_not_hide_one_that_prefect_starts_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first attempt crashed, the start of the second was not answered: the second is looked for and cancelled."""
    monkeypatch.setattr(shard_runs, "FIRST_POLL_SECONDS", 0.01)

    class Late(ScriptedRuns):
        looks = 0

        async def start(self, number: int, attempt: int) -> ShardRun:
            if attempt == 2:
                raise Unavailable("Prefect does not respond")
            return await super().start(number, attempt)

        async def find(self, numbers: Sequence[int]) -> list[ShardRun]:
            self.looks += 1
            if self.looks == 3:
                self.ends = False
                await super().start(1, 2)
            return await super().find(numbers)

    runs = Late(crashing={1: 1})
    batch = Batch(runs, 1, 1, polls_until_cancel=3)
    await batch.supervisor.run_all()
    assert (set(runs.cancelled), batch.supervisor.newest[1].attempt, batch.ended) == ({1}, 2, [1, 1])


async def test_no_shard_is_started_once_the_limit_is_spent() -> None:
    """The shards that are open end, and the others get no run."""
    runs = ScriptedRuns()
    batch = Batch(runs, 5, 2)
    batch.spent_after = 2
    await batch.supervisor.run_all()
    assert (runs.started, batch.ended, batch.supervisor.left_by) == ([(1, 1), (2, 1)], [1, 2], SPENT)


async def test_what_stays_open_after_a_cancel_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that does not end in time is named."""
    monkeypatch.setattr(shard_runs, "CANCEL_SECONDS", 0)

    class Deaf(ScriptedRuns):
        async def cancel(self, runs: Sequence[ShardRun]) -> None:
            del runs

    runs = Deaf()
    runs.ends = False
    batch = Batch(runs, 2, 1, polls_until_cancel=1)
    await batch.supervisor.run_all()
    assert [run.number for run in batch.supervisor.open_runs] == [1]


async def test_a_wait_for_workers_is_reported_again_and_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While a paused pool lets no shard start, the log says so after 1, 2, 4 and 8 minutes, with what to do."""
    clock = [0.0]
    monkeypatch.setattr("i2v.batches.worker_wait.time.monotonic", lambda: clock[0])
    runs = ScriptedRuns()
    runs.ends, runs.first_state = False, ShardState.WAITING
    batch = Batch(runs, 2, 2, polls_until_cancel=60)
    notes = []

    async def sleep(seconds: float) -> None:
        clock[0] += 10
        notes.append(str(batch.supervisor.worker_wait))
        await Batch.sleep(batch, seconds)

    monkeypatch.setattr(batch.supervisor, "_sleep", sleep)
    monkeypatch.setattr(shard_runs, "CANCEL_SECONDS", 0)
    await batch.supervisor.run_all()

    lines = [record.getMessage() for record in caplog.records if "no worker has taken" in record.getMessage()]
    assert [line.split(" for ")[1].split(".")[0] for line in lines] == ["1 min", "2 min", "4 min", "8 min"]
    assert "prefect work-pool resume i2v" in lines[0]
    assert (notes[0], "10 min" in notes[-1]) == ("", True)
