"""What people see of runs and money: run reports, pages of the Prefect UI, progress and advice.

Add text, tables and charts here. Keep decisions out: a report describes what the pipeline did.
"""
