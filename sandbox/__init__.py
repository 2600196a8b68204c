"""The world in a box: everything outside i2v, on this machine and free of charge, for demo, tests and benchmarks.

`Sandbox` starts a stand-in for the paid provider (`sandbox.provider`) and S3 and SQS (`sandbox.aws`). Its videos are
synthetic. Add what stands for the outside; keep out flows, tasks, and `i2v.apixo`, so that a misreading of the
provider's contract in the client cannot hide here too.
"""

from sandbox.sandbox import Sandbox

__all__ = ["Sandbox"]
