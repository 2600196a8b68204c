"""One payment: what must hold right before it, the claim and the POST, and what came of it.

Add a condition of a payment to `_check_before_claim` in `check_and_pay`. When to try a submit again is up to
`i2v.pipeline.submit`.
"""
