"""What mutants have in common: they replace functions of the library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from i2v.s3_uri import S3Uri

Mutant = Callable[[], None]


def replace(owner: Any, name: str, value: Any) -> None:
    """Replace what a module or class has under this name."""
    assert hasattr(owner, name), f"{owner} has no {name}"
    setattr(owner, name, value)


async def do_nothing(*_: Any, **__: Any) -> None:
    """Do nothing."""


async def write_unconditionally(storage: Any, document: Any, uri: S3Uri, _etag: str | None) -> str:
    """Write a document of the ledger whatever is there."""
    body = document.model_dump_json().encode()
    return str(await storage.put(uri, body, content_type="application/json"))
