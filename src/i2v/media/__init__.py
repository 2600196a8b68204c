"""Images and videos as bytes: format, completeness, measurements.

Add checks of bytes here. Keep out where the bytes come from and what a check means for a job.
"""
