"""The checks of `i2v doctor`: is everything outside as a run needs it?

A check is free, leaves nothing behind, ends within 20 s, and runs whatever the others found. Add one about the bucket
to `bucket`, any other to `checks`. The check of the Prefect server is in `i2v.cli.doctor`.
"""
