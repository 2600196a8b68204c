"""What i2v adds to Prefect: names of states and runs, signals, logging, artifacts, events, credentials.

Add what needs Prefect. Keep out the steps (`tasks`) and everything that works without Prefect (`i2v`).
"""
