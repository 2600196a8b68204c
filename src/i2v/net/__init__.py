"""Requests to URLs that other people chose, and limits on concurrent requests.

Add what protects such a request: address checks, size limits, time limits. Keep out S3 (`i2v.s3`) and the provider's
API (`i2v.apixo`).
"""
