"""S3: the client, objects with conditional writes, listings. Only this package uses boto3.

Add here what any caller of S3 needs. What an object means, and how keys are named, is in `i2v.ledger.keys`.
"""
