"""A batch in Prefect: its flow run, the runs of its shards, and its page. What needs no Prefect is in `i2v.batches`."""
