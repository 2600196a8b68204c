"""Checks of the bucket: permissions, conditional writes, presigned URLs, lifecycle rules, versioning, clock."""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from i2v.advised_commands import command
from i2v.doctor.findings import Check, Finding, Level
from i2v.errors import AccessDenied, FetchError, NoBucket, NotFound, StorageError
from i2v.net.address_policy import is_public, resolve_host
from i2v.net.fetcher import Fetcher
from i2v.pipeline.payment.address_probe import response_problem
from i2v.s3.failures import PERMISSIONS
from i2v.s3.preconditions import prove_conditional_writes
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri
from i2v.settings import Settings

SKEW_SECONDS = 60.0
"""S3 refuses requests from a clock that is 15 minutes off; a warning comes earlier."""
ARCHIVE_CLASSES = {"GLACIER", "DEEP_ARCHIVE"}
"""Storage classes from which an object must be restored before it can be read."""
OPTIONAL = {"images": {"put", "delete"}, "videos": {"delete"}, "jobs": set[str](), "published": {"delete"}}
"""Permissions that a run does not need under each prefix."""


async def check_bucket(settings: Settings, storage: Storage) -> Finding:
    """Check that the bucket is set and exists."""
    settings.require_bucket()
    places = (settings.images, settings.videos, settings.jobs, settings.published)
    buckets = sorted({place.bucket for place in places if place})
    for bucket in buckets:
        try:
            await storage.call(S3Uri(bucket, ""), storage.client.head_bucket, Bucket=bucket)
        except NotFound:
            raise NoBucket(f"the bucket {bucket} does not exist", "Check I2V_BUCKET and the region") from None
        except StorageError:
            await _list_one(storage, S3Uri(bucket, ""))  # the response to a HEAD has no reason
            raise
    endpoint = urlsplit(str(storage.client.meta.endpoint_url)).netloc.rpartition("@")[2]
    return Finding("bucket", Level.OK, f"{', '.join(buckets)} found at {endpoint}")


async def _list_one(storage: Storage, prefix: S3Uri) -> None:
    query = {"Bucket": prefix.bucket, "Prefix": prefix.key, "MaxKeys": 1}
    await storage.call(prefix, storage.client.list_objects_v2, **query)


class BucketChecks:
    """The checks that need a bucket."""

    def __init__(self, settings: Settings, storage: Storage) -> None:
        self._settings = settings
        self._storage = storage

    def by_name(self) -> dict[str, Check]:
        """Return the checks under the names of their findings."""
        prefixes = {"images": self._settings.images, "videos": self._settings.videos, "jobs": self._settings.jobs}
        prefixes |= {"published": self._settings.published} if self._settings.published else {}
        permissions = {f"rights {name}": partial(self.permissions, name, uri) for name, uri in prefixes.items()}
        return {
            **permissions,
            "conditional writes": self.conditional_writes,
            "presigned URL": self.presigned_url,
            "lifecycle": self.lifecycle,
            "versioning": self.versioning,
            "clock": self.clock,
        }

    async def permissions(self, name: str, prefix: S3Uri) -> Finding:
        """List, put, get and delete under a prefix; a missing permission that runs do not need is a warning."""
        scratch = prefix / f"doctor/{secrets.token_hex(8)}.txt"
        operations: dict[str, Callable[[], Awaitable[object]]] = {
            "list": lambda: _list_one(self._storage, prefix),
            "put": lambda: self._storage.put(scratch, b"i2v-doctor"),
            "get": lambda: self._storage.get(scratch),
            "delete": lambda: self._storage.delete(scratch),
        }
        denied: dict[str, AccessDenied] = {}
        for operation, attempt in operations.items():
            try:
                await attempt()
            except NoBucket:
                raise
            except NotFound:
                continue  # the get after a denied put
            except AccessDenied as error:
                if error.hint != PERMISSIONS:  # clock, credentials or key
                    raise
                denied[operation] = error
            if denied.keys() >= {"list", "put"}:
                break  # the rest would fail too, each after its retries
        if not denied:
            return Finding(f"rights {name}", Level.OK, f"list, get, put and delete under {prefix}")
        message = f"under {prefix}: {'; '.join(error.message for error in denied.values())}"
        if denied.keys() <= OPTIONAL[name]:
            return Finding(f"rights {name}", Level.WARNING, message, "Only uploads of local files need it")
        hint = f"Grant the credentials permission to {', '.join(denied)} there"
        return Finding(f"rights {name}", Level.FAULT, message, hint)

    async def conditional_writes(self) -> Finding:
        """Check that the server honors IfNoneMatch and IfMatch, on which the ledger relies."""
        async with self._scratch() as scratch:
            await self._storage.put(scratch, b"i2v-doctor", create=True)
            await prove_conditional_writes(self._storage, scratch)
        return Finding("conditional writes", Level.OK, "IfNoneMatch and IfMatch are honored")

    async def presigned_url(self) -> Finding:
        """Check that a presigned URL returns the exact bytes, for as long as the provider may need it."""
        seconds = self._settings.image_url_seconds
        body = secrets.token_bytes(1024)
        async with self._scratch() as scratch:
            await self._storage.put(scratch, body)
            url = await self._storage.presign(scratch, seconds=seconds)
            problem = await self._fetch_problem(url, body)
        if problem:
            return Finding("presigned URL", Level.FAULT, *problem)
        host = urlsplit(url).hostname or ""
        if not await _is_public_host(url) and await _is_public_host(self._settings.base_url):
            message = f"it works from here, but {host} is a private address: the provider cannot fetch images from it"
            return Finding("presigned URL", Level.WARNING, message, "Use an S3 endpoint on the public internet")
        if self._storage.credentials_end_within(seconds):
            message = f"the credentials expire in less than {seconds} s, the lifetime of image URLs"
            return Finding("presigned URL", Level.WARNING, message, "Renew them, or use credentials that last longer")
        return Finding("presigned URL", Level.OK, f"{host} serves presigned URLs, valid for {seconds} s")

    async def _fetch_problem(self, url: str, expected: bytes) -> tuple[str, str] | None:
        """Fetch the URL without credentials; return a message and a hint if that fails."""
        hosts = self._settings.private_hosts | {urlsplit(url).netloc}
        async with Fetcher(self._settings.model_copy(update={"private_hosts": hosts})) as fetcher:
            try:
                if problem := response_problem("the URL", await fetcher.fetch_first_byte(url)):
                    return problem[0], problem[1].removesuffix(f": {command('doctor')}")
                response = await fetcher.fetch_bytes(url, limit=len(expected))
            except FetchError as error:
                hint = "Check AWS_REGION, the credentials, and that a proxy before S3 keeps host and path"
                return error.message, hint if error.status else error.hint
        if response.body != expected:
            return "it returned other bytes than were stored", "Check AWS_ENDPOINT_URL"
        return None

    async def lifecycle(self) -> Finding:
        """Check that no lifecycle rule removes the ledger or the videos."""
        jobs, videos = self._settings.jobs, self._settings.videos
        rules: list[dict[str, Any]] = []
        try:
            for bucket in sorted({jobs.bucket, videos.bucket}):
                rules += [{**rule, "Bucket": bucket} for rule in await self._rules(bucket)]
        except StorageError as error:
            hint = f"Check by hand that no lifecycle rule covers {jobs}"
            return Finding("lifecycle", Level.WARNING, f"the rules cannot be read: {error.message}", hint)
        for prefix, level in ((jobs, Level.FAULT), (videos, Level.WARNING)):
            if rule := next((rule for rule in rules if is_removed_by(rule, prefix)), None):
                message = f"the rule {rule.get('ID') or 'without a name'!r} expires or archives objects under {prefix}"
                hint = "Limit the rule to other prefixes: without the ledger, videos are paid for again"
                return Finding("lifecycle", level, message, hint)
        return Finding("lifecycle", Level.OK, "no rule affects ledger or videos")

    async def _rules(self, bucket: str) -> Sequence[dict[str, Any]]:
        get = self._storage.client.get_bucket_lifecycle_configuration
        try:
            rules: Sequence[dict[str, Any]] = (await self._storage.call(S3Uri(bucket, ""), get, Bucket=bucket))["Rules"]
        except NotFound:
            return ()
        return rules

    async def versioning(self) -> Finding:
        """Report whether the provider gets a fixed version of an image."""
        bucket = self._settings.images.bucket
        get = self._storage.client.get_bucket_versioning
        try:
            status = (await self._storage.call(S3Uri(bucket, ""), get, Bucket=bucket)).get("Status")
        except StorageError as error:
            return Finding("versioning", Level.WARNING, f"unknown: {error.message}", "Runs do not need it")
        if status == "Enabled":
            return Finding("versioning", Level.OK, "on: the provider gets the version that was checked")
        return Finding("versioning", Level.OK, "off: an image replaced while its video is made is detected and flagged")

    async def clock(self) -> Finding:
        """Compare this machine's clock with S3's."""
        async with self._scratch() as scratch:
            await self._storage.put(scratch, b"")
            skew = (datetime.now(UTC) - (await self._storage.head(scratch)).served_at).total_seconds()
        if abs(skew) > SKEW_SECONDS:
            message = f"this machine's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} S3's"
            hint = "Synchronize it with NTP; S3 refuses requests that are 15 min off"
            return Finding("clock", Level.WARNING, message, hint)
        return Finding("clock", Level.OK, f"within {max(1, round(abs(skew)))} s of S3's")

    @asynccontextmanager
    async def _scratch(self) -> AsyncIterator[S3Uri]:
        """Name an object under the jobs prefix that is deleted at the end."""
        scratch = self._settings.jobs / f"doctor/{secrets.token_hex(8)}"
        try:
            yield scratch
        finally:
            with suppress(StorageError):  # the permission check reports it
                await self._storage.delete(scratch)


def is_removed_by(rule: dict[str, Any], prefix: S3Uri) -> bool:
    """Return whether a lifecycle rule expires or archives objects under a prefix.

    Rules that match tags do not apply, since our objects have none. Scratch objects and input copies may expire.
    """
    filters = rule.get("Filter") or {}
    combined = filters.get("And") or {}
    if rule.get("Status") != "Enabled" or rule["Bucket"] != prefix.bucket or "Tag" in filters or combined.get("Tags"):
        return False
    covered = rule.get("Prefix") or filters.get("Prefix") or combined.get("Prefix") or ""
    if not (prefix.key.startswith(covered) or covered.startswith(prefix.key)):
        return False
    if covered.startswith((prefix.key + "doctor/", prefix.key + "inputs/", prefix.key + "runs/")):
        return False
    archives = any(move.get("StorageClass") in ARCHIVE_CLASSES for move in rule.get("Transitions") or ())
    return bool({"Days", "Date"} & (rule.get("Expiration") or {}).keys()) or archives


async def _is_public_host(url: str) -> bool:
    """Return whether all addresses of a URL's host are public; one that cannot be resolved here counts as public."""
    parts = urlsplit(url)
    try:
        addresses = await resolve_host(parts.hostname or "", parts.port or 443)
    except OSError:
        return True
    return all(is_public(address) for address in addresses)
