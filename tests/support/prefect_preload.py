"""Imported once by the fork server in tests with Prefect: what `i2v run` imports beyond `forkserver_preload`."""

from __future__ import annotations

import gc
import os

os.environ.setdefault("DO_NOT_TRACK", "1")  # as `i2v` does: Prefect reads it when it is imported

import i2v.cli.prefect.flow_run
import prefect_support.task_states
import tasks.poll
import tasks.store
import tasks.submit
import tasks.validate

__all__ = ["i2v", "prefect_support", "tasks"]

gc.collect()
gc.freeze()
