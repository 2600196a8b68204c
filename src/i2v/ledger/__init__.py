"""The ledger in S3, the source of truth about money: job records, open markers, budgets and bucket keys.

`transitions.claim` lets one run pay for a job, and `budget` says whether there is money for it. Add functions that
change a record to `transitions`. Keep requests to the provider out (`i2v.pipeline`).
"""
