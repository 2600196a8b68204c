"""The steps as Prefect tasks: `validate`, `submit`, `poll`, `store`.

A task holds Prefect's policy (name, cache, retries) in the decorator and one call into the library in the body. Keep
out logic (`i2v.pipeline`), the order of the steps (`flows`) and everything else of Prefect's (`prefect_support`).
"""
