"""Run `prefect` with rare garbage collections: `python -m sandbox.prefect_command server start`.

A server on SQLite stops for a minute if a collection in its event loop meets the cursor of a connection that waits for
the database (docs/prefect-upstream.md). Rare collections make that rare.
"""

import gc
import runpy

NEW_OBJECTS = 200_000

if __name__ == "__main__":
    gc.set_threshold(NEW_OBJECTS, 50, 50)
    runpy.run_module("prefect", run_name="__main__", alter_sys=True)
