"""Everything outside i2v, on this machine and free of charge: for the demo, tests and benchmarks.

`Sandbox` starts an emulator of the paid provider (`sandbox.provider`), S3 and SQS (`sandbox.aws`). Keep out flows,
tasks and `i2v.apixo`: a client that misreads the provider's contract must not share that mistake with the emulator.
"""

from sandbox.sandbox import Sandbox

__all__ = ["Sandbox"]
