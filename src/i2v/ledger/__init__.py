"""The ledger in S3, the source of truth about money: job records, markers, budget, and the names of keys.

Whether a job may be paid is decided here: `transitions.claim` and `budget`. Add what changes a record to `transitions`.
Keep out requests to the provider (`i2v.pipeline`).
"""
