"""One payment: what must hold right before it, the claim and the POST, and what came of it.

Add a condition of a payment to `_check_before_claim` in `check_and_pay`. Keep out when a submit is tried again
(`i2v.pipeline.submit`).
"""
