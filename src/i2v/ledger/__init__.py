"""The ledger in S3, the source of truth about money: job records, open markers, budgets and bucket keys.

`transitions.claim` and `budget` decide whether a job may be paid. Add functions that change a record to `transitions`.
Keep requests to the provider out (`i2v.pipeline`).
"""
