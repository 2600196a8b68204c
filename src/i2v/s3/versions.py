"""All versions of objects, and delete markers: `list_versions` and `delete_versions`. For erasure alone.

In a bucket without versions each object has the one version `null`.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, NamedTuple

from i2v.errors import AccessDenied, StorageError
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri

BATCH = 1_000
"""DeleteObjects takes so many."""
NO_VERSIONS = {"NotImplemented", "MethodNotAllowed", "501", "405"}
"""Answers of servers that know no versions."""
LOCKED = "it is locked (object lock, retention or a legal hold)"


class ObjectVersion(NamedTuple):
    """A version of an object, or a delete marker."""

    uri: S3Uri
    version_id: str
    is_latest: bool
    etag: str = ""


class NotDeleted(NamedTuple):
    """An object, one of its versions or a prefix that is still there, and why."""

    uri: S3Uri
    why: str


async def list_versions(storage: Storage, prefix: S3Uri, *, recursive: bool = True) -> AsyncIterator[ObjectVersion]:
    """Yield the versions and delete markers under a prefix; with `recursive=False`, only those without a further `/`.

    A server that knows no versions gives the objects. Raise `StorageError`.
    """
    query: dict[str, str] = {"Prefix": prefix.key} | ({} if recursive else {"Delimiter": "/"})
    while True:
        try:
            page = await storage.call(prefix, storage.client.list_object_versions, Bucket=prefix.bucket, **query)
        except StorageError as error:
            if _code(error) not in NO_VERSIONS:
                raise
            async for entry in storage.list(prefix, recursive=recursive):
                yield ObjectVersion(entry.uri, "", True, entry.etag)
            return
        for each in (*page.get("Versions", ()), *page.get("DeleteMarkers", ())):
            uri, etag = S3Uri(prefix.bucket, each["Key"]), each.get("ETag", "").strip('"')
            yield ObjectVersion(uri, each.get("VersionId") or "", bool(each.get("IsLatest")), etag)
        if not page.get("IsTruncated"):
            return
        query |= {"KeyMarker": page["NextKeyMarker"], "VersionIdMarker": page.get("NextVersionIdMarker", "")}


async def delete_versions(storage: Storage, versions: Sequence[ObjectVersion]) -> list[NotDeleted]:
    """Delete versions for good; return those that are still there. One that fails stops no other."""
    left: list[NotDeleted] = []
    for start in range(0, len(versions), BATCH):
        some = versions[start : start + BATCH]
        try:
            left += await _delete_batch(storage, some)
        except StorageError:  # not every server has DeleteObjects with versions
            for one in some:
                left += await _delete_one(storage, one)
    return left


async def _delete_batch(storage: Storage, versions: Sequence[ObjectVersion]) -> list[NotDeleted]:
    bucket = versions[0].uri.bucket
    objects = [{"Key": one.uri.key} | _version(one) for one in versions]
    delete = {"Objects": objects, "Quiet": True}
    response = await storage.call(versions[0].uri, storage.client.delete_objects, Bucket=bucket, Delete=delete)
    failed = response.get("Errors", ())
    return [
        NotDeleted(S3Uri(bucket, each["Key"]), _why(each)) for each in failed if each.get("Code") != "NoSuchVersion"
    ]


async def _delete_one(storage: Storage, version: ObjectVersion) -> list[NotDeleted]:
    uri, client = version.uri, storage.client
    try:
        await storage.call(uri, client.delete_object, Bucket=uri.bucket, Key=uri.key, **_version(version))
    except StorageError as error:
        response = getattr(error.__cause__, "response", {}).get("Error", {})
        return [NotDeleted(uri, _why(response) if response else str(error))]
    return []


def _version(version: ObjectVersion) -> dict[str, str]:
    return {"VersionId": version.version_id} if version.version_id else {}


def _code(error: StorageError) -> str:
    response = getattr(error.__cause__, "response", {})
    return str(response.get("Error", {}).get("Code", ""))


def _why(error: Mapping[str, Any]) -> str:
    code, message = error.get("Code", ""), error.get("Message", "")
    if "lock" in f"{code} {message}".lower() or "retention" in message.lower():
        return LOCKED
    if code == "AccessDenied":
        return "S3 denies it (AccessDenied): s3:DeleteObject and s3:DeleteObjectVersion are needed; or it is locked"
    return f"{code}: {message}".strip(": ")


async def delete_all(
    storage: Storage, prefix: S3Uri, *, keep_latest: bool = False, exact: bool = False, recursive: bool = True
) -> tuple[int, list[NotDeleted]]:
    """Delete every version under a prefix, or only of this key with `exact`, or only the older ones.

    Return how many are gone, and what is left. Without the right to list versions the newest alone is deleted.
    """
    try:
        listed = [one async for one in list_versions(storage, prefix, recursive=recursive)]
        left: list[NotDeleted] = []
    except AccessDenied as error:
        listed = [ObjectVersion(one.uri, "", True) async for one in storage.list(prefix, recursive=recursive)]
        left = [NotDeleted(prefix, f"older versions may exist: {error.message}. s3:ListBucketVersions is needed")]
    chosen = [one for one in listed if not (keep_latest and one.is_latest) and (not exact or one.uri == prefix)]
    left += await delete_versions(storage, chosen)
    return len(chosen) - len(left), left
