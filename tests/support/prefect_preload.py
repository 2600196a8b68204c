"""Imported once by the fork server in tests with Prefect: what commands there import beyond `forkserver_preload`."""

from __future__ import annotations

import gc
import os

os.environ.setdefault("DO_NOT_TRACK", "1")  # as `i2v` does: Prefect reads it when it is imported

import deployments.setup
import doors.service
import flows.generate
import i2v.cli.prefect.flow_run
import prefect_support.task_states
import tasks.poll
import tasks.store
import tasks.submit
import tasks.validate

__all__ = ["deployments", "doors", "flows", "i2v", "prefect_support", "tasks"]

gc.collect()
gc.freeze()
