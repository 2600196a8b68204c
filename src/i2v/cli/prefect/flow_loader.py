"""Find the project's flows, and load the flow `generate` as a worker does."""

import gc
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

from prefect.exceptions import ScriptError
from prefect.flows import load_flow_from_entrypoint

import i2v
from i2v.errors import UsageError

FLOW_FILE = Path("flows", "generate.py")


def project_root() -> Path:
    """Return the folder with the flows: the working directory, or the checkout that i2v is installed from.

    Raise `UsageError` if neither has them.
    """
    for folder in (Path.cwd(), *Path(i2v.__file__).resolve().parents):
        if (folder / "prefect.yaml").is_file() and (folder / FLOW_FILE).is_file():
            return folder
    raise UsageError(
        f"{FLOW_FILE} not found: only the i2v library is installed",
        "Run this command in a checkout of the project (the folder with prefect.yaml), or install one with: make setup",
    )


def load_flow(root: Path) -> Any:
    """Load the flow with Prefect's own loader, with the project as the working directory."""
    try:
        with chdir(root), _without_garbage_collection():
            return load_flow_from_entrypoint(f"{FLOW_FILE}:generate_videos", use_placeholder_flow=False)
    except ScriptError as error:
        raise UsageError(
            f"{root / FLOW_FILE} cannot be loaded: {error.user_exc}", "Install the project's version with: make setup"
        ) from error


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Disable garbage collection during imports, which then take 10 % less, and keep modules out of later ones."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
