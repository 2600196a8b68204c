"""`deployments/compose.yaml` as plain processes on one machine, without containers: `make cluster`.

`compose` reads the file, `programs` starts PostgreSQL, Redis and nginx, `cluster` runs all services and restarts those
that end, `__main__` is the command. Import nothing from flows, doors or deployments here: each is a process.
"""
