"""Load the flow `generate` as a worker does."""

from __future__ import annotations

from contextlib import chdir
from pathlib import Path
from typing import Any

from prefect.exceptions import ScriptError
from prefect.flows import load_flow_from_entrypoint

from i2v.cli.project import FLOW_FILE
from i2v.errors import UsageError


def load_flow(root: Path) -> Any:
    """Load the flow by Prefect's own loader, with the project as the working directory."""
    try:
        with chdir(root):
            return load_flow_from_entrypoint(f"{FLOW_FILE}:generate_videos", use_placeholder_flow=False)
    except ScriptError as error:
        raise UsageError(
            f"{root / FLOW_FILE} cannot be loaded: {error.user_exc}", "Install the project's version with: make setup"
        ) from error
