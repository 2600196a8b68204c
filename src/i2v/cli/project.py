"""Where the project's flows are."""

from __future__ import annotations

from pathlib import Path

import i2v
from i2v.errors import UsageError

FLOW_FILE = Path("flows", "generate.py")


def project_root() -> Path:
    """Return the folder with the flows: the working directory, or the checkout that i2v is installed from.

    Raises:
        UsageError: neither has the flows.
    """
    for folder in (Path.cwd(), *Path(i2v.__file__).resolve().parents):
        if (folder / "prefect.yaml").is_file() and (folder / FLOW_FILE).is_file():
            return folder
    raise UsageError(
        f"{FLOW_FILE} not found: only the i2v library is installed",
        "Run this command in a checkout of the project (the folder with prefect.yaml), or install one with: make setup",
    )
