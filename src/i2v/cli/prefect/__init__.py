"""Prefect, as `i2v run` uses it: the configured server (`connection`), or a temporary one (`embedded_server`, `child`).

All of the library's knowledge of Prefect is here.
"""
