"""The steps as Prefect tasks, in their order: validate, submit, poll, store.

A task here is Prefect's policy (name, tags, cache) and one call into the library. Logic belongs into `i2v`, and the
order of the steps into `flows`.
"""
