"""i2v turns images in an S3 bucket into short videos, and never pays twice for one.

This package is the library: S3, the ledger and the provider, without Prefect. The flows that use it are in `flows/`.
"""
