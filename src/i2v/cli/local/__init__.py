"""Local files named on a command line: which images they are (`files`), and how they get into the bucket (`uploads`).

Flows read images only from S3 or by URL, so nothing outside the command line belongs here.
"""
