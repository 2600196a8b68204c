"""i2v: images land in an S3 bucket, short videos of them appear beside, and none is paid twice.

This package is the library: it knows S3, the ledger and the provider, and nothing of Prefect. The flows that use it lie
in `flows/` at the project's root.
"""
