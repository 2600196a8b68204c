"""How long a batch has waited for a worker, and when to say so: `WorkerWait`. Nothing ends this wait but a worker."""

import time

FIRST_WARNING_SECONDS, MOST_SECONDS = 60.0, 3600.0


class WorkerWait:
    """Warns after a minute, then after growing times, at least once an hour."""

    def __init__(self) -> None:
        self.update(is_waiting=False)

    def update(self, *, is_waiting: bool) -> bool:
        """Note whether a worker is awaited now; return whether to warn."""
        now = time.monotonic()
        if not is_waiting:
            self._since, self._next = now, now + FIRST_WARNING_SECONDS
        if now < self._next:
            return False
        self._next = now + min(now - self._since, MOST_SECONDS)
        return True

    def __str__(self) -> str:
        """Say what is wrong and what to do; empty in the first minute."""
        seconds = time.monotonic() - self._since
        if seconds < FIRST_WARNING_SECONDS:
            return ""
        return (
            f"no worker has taken a run of this batch for {seconds // 60:.0f} min. Is the pool or its queue paused? "
            "Resume it (prefect work-pool resume i2v). Is no worker free? Start one "
            "(prefect worker start --pool i2v); a worker with --limit 1 runs only the batch itself"
        )
