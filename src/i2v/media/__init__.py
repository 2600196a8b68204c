"""Images and videos as bytes: what format they have, whether they are complete, what they measure.

Add a check of bytes here. Keep out where the bytes come from, and what a check means for a job.
"""
