"""Batches: images for more than one run. The parent writes shards, starts a run for each, and merges their reports.

Add what needs no Prefect: sharding, which run to start next, the merged report and its page. `prefect_support` starts
the runs.
"""
