"""What commands print: the two streams (`console`), progress, tables of reports and jobs, errors and `--json`.

Add another table here. Keep out what decides an exit code or reads the ledger.
"""
