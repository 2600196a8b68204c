"""Search every version of every object of a bucket: keys, bodies and metadata."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from sandbox import Sandbox
from tests.support.secret_search import SecretSearch


def search_all_versions(sandbox: Sandbox, words: Mapping[str, str], *, except_under: str = "") -> set[tuple[str, str]]:
    """Return where each of the words was found, in any spelling; keys of delete markers are searched too."""
    search = SecretSearch(words)
    for key, version, is_marker in _versions(sandbox):
        if except_under and key.startswith(except_under):
            continue
        search.search(f"key {key}", key)
        if not is_marker:
            answer = sandbox.s3().get_object(Bucket=sandbox.bucket, Key=key, VersionId=version)
            search.search(f"object {key}", answer["Body"].read())
            search.search(f"metadata of {key}", json.dumps(answer["Metadata"]))
    assert search.searched
    return search.found


def _versions(sandbox: Sandbox) -> Iterator[tuple[str, str, bool]]:
    for page in sandbox.s3().get_paginator("list_object_versions").paginate(Bucket=sandbox.bucket):
        yield from ((one["Key"], one["VersionId"], False) for one in page.get("Versions", ()))
        yield from ((one["Key"], one["VersionId"], True) for one in page.get("DeleteMarkers", ()))
