"""What people see of runs and money: reports, pages, progress, advice.

Add text, tables and charts here. Keep out decisions: a report describes what the pipeline did.
"""
