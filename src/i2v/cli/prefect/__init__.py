"""The flow run of `i2v run`: on the configured Prefect server, or on a temporary one (`embedded_server`, `child`).

All of the library's code that uses Prefect is here.
"""
