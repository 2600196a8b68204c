"""A deterministic simulator: the real library against models of S3 and of the provider, in virtual time.

One integer seed is one story: `scenario` draws it, `world` plays it, `promises` judges it. `python -m
tests.simulator` plays many. What a record or a marker looks like is known to `promises.reading` alone.
"""
