"""What an earlier run left: open jobs, missing videos, callbacks, jobs that a person resolves, the ledger's status.

Add a repair here. Keep out what a run does for its own images (`i2v.pipeline`). A line is an `ItemReport`: one image or
job in a run's report.
"""
