"""S3: the client, objects with conditions, listings. boto3 lives here alone.

Add what every caller of S3 needs. Keep out what an object means: the names of keys are in `i2v.ledger.keys`.
"""
