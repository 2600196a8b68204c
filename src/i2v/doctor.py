"""Whether everything outside is as a run needs it: `examine` looks at the provider, the bucket and the ledger.

Each check costs nothing, leaves nothing behind, ends in time, and runs whatever the others found. The Prefect server is
the command line's to look at.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from i2v.apixo.callbacks import check_callbacks
from i2v.apixo.client import ApixoClient
from i2v.errors import Conflict, FetchError, I2vError, NoBucket, NotFound, ProviderError, StorageError
from i2v.ledger.ledger import WRONG_ETAG, Ledger, provider_host
from i2v.net.address_policy import is_public, resolve_host
from i2v.net.fetcher import Fetcher
from i2v.pricing import price_usd
from i2v.request import Mode
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri
from i2v.settings import Settings

CHECK_SECONDS = 20.0
SKEW_SECONDS = 60.0
"""S3 refuses requests whose clock is off by 15 minutes; what is off by one is worth a word."""
HEALTH_LIMIT_BYTES = 1 << 16
COLD = {"GLACIER", "DEEP_ARCHIVE"}
"""Storage classes from which nothing can be read at once."""

SPARED = {"images": {"put", "delete"}, "videos": {"delete"}, "jobs": set[str]()}
"""Rights that a run does not need under each prefix."""


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found, and what to do about it."""

    check: str
    level: Level
    message: str
    hint: str = ""


Check = Callable[[], Awaitable[Finding]]


async def examine(settings: Settings, storage: Storage) -> list[Finding]:
    """Run all checks that the settings allow, at the same time."""
    patient = Checks(settings, storage)
    checks: list[tuple[str, Check]] = [("key", patient.key)]
    if settings.bucket or settings.jobs_prefix.startswith("s3://"):
        checks += patient.of_bucket()
    else:
        checks.append(("bucket", patient.bucket))
    checks.append(("callbacks", patient.callbacks))
    return list(await asyncio.gather(*(bounded(name, check) for name, check in checks)))


async def bounded(name: str, check: Check) -> Finding:
    """One check, ended in time; whatever it meets becomes its finding."""
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            return await check()
    except I2vError as error:
        return Finding(name, Level.FAULT, error.message, error.hint)
    except TimeoutError:
        return Finding(name, Level.FAULT, f"no answer within {CHECK_SECONDS:g} s", "Check the address and the network")


class Checks:
    """What is examined."""

    def __init__(self, settings: Settings, storage: Storage) -> None:
        self._settings = settings
        self._storage = storage

    def of_bucket(self) -> list[tuple[str, Check]]:
        """The checks that need the bucket."""
        places = {"images": self._settings.images, "videos": self._settings.videos, "jobs": self._settings.jobs}
        rights: list[tuple[str, Check]] = [
            (f"rights {name}", lambda name=name, place=place: self.rights(name, place))  # type: ignore[misc]
            for name, place in places.items()
        ]
        return [
            ("bucket", self.bucket),
            *rights,
            ("conditional writes", self.conditions),
            ("presigned URL", self.presigned),
            ("ledger", self.ledger),
            ("lifecycle", self.lifecycle),
            ("versioning", self.versioning),
            ("clock", self.clock),
        ]

    async def key(self) -> Finding:
        """The key is there and the provider takes it."""
        self._settings.require_key()
        async with ApixoClient(self._settings) as client:
            try:
                balance = await client.balance(tries=2)
            except ProviderError as error:
                return Finding("key", Level.FAULT, error.message, error.hint)
        cheapest = price_usd(Mode.STANDARD, 6, self._settings.prices_usd)
        message = f"{provider_host(self._settings)} takes the key; the balance is ${balance}"
        if balance < cheapest:
            return Finding("key", Level.WARNING, message, f"The cheapest video costs ${cheapest}: add balance")
        return Finding("key", Level.OK, message)

    async def bucket(self) -> Finding:
        """The bucket is set, exists and answers."""
        self._settings.require_bucket()
        places = {self._settings.images.bucket, self._settings.videos.bucket, self._settings.jobs.bucket}
        for bucket in sorted(places):
            try:
                await self._storage.call(S3Uri(bucket, ""), self._storage.client.head_bucket, Bucket=bucket)
            except NotFound:
                raise NoBucket(f"the bucket {bucket} does not exist", "Check I2V_BUCKET and the region") from None
        at = urlsplit(str(self._storage.client.meta.endpoint_url)).netloc
        return Finding("bucket", Level.OK, f"{', '.join(sorted(places))} answers at {at}")

    async def rights(self, name: str, place: S3Uri) -> Finding:
        """List, put, get and delete under a prefix; what a run can do without is a warning."""
        scratch = place / f"doctor/{secrets.token_hex(8)}.txt"
        attempts: dict[str, Callable[[], Awaitable[object]]] = {
            "list": lambda: self._list(place),
            "put": lambda: self._storage.put(scratch, b"i2v doctor"),
            "get": lambda: self._storage.get(scratch),
            "delete": lambda: self._storage.delete(scratch),
        }
        lacks: dict[str, str] = {}
        for right, attempt in attempts.items():
            try:
                await attempt()
            except NoBucket:
                raise
            except NotFound:
                continue  # a get after a put that was refused
            except StorageError as error:
                lacks[right] = error.message
            if lacks.keys() >= {"list", "put"}:
                break  # then nothing works here, and each try takes its time
        return _of_rights(name, place, lacks)

    async def _list(self, place: S3Uri) -> None:
        await self._storage.call(
            place, self._storage.client.list_objects_v2, Bucket=place.bucket, Prefix=place.key, MaxKeys=1
        )

    async def conditions(self) -> Finding:
        """IfNoneMatch and IfMatch are honoured, on which the ledger rests."""
        scratch = self._scratch()
        first = await self._storage.put(scratch, b"1", create=True)
        try:
            for name, create, if_match in (("IfNoneMatch", True, None), ("IfMatch", False, WRONG_ETAG)):
                try:
                    await self._storage.put(scratch, b"2", create=create, if_match=if_match)
                except Conflict:
                    continue
                hint = "Two runs could pay for one video: use a server that honours conditional writes"
                return Finding("conditional writes", Level.FAULT, f"the S3 server ignores {name}", hint)
            await self._storage.put(scratch, b"3", if_match=first.etag)
        finally:
            await self._storage.delete(scratch)
        return Finding("conditional writes", Level.OK, "IfNoneMatch and IfMatch are honoured")

    async def presigned(self) -> Finding:
        """A presigned URL gives the exact bytes to whoever has it, for as long as the provider may need it."""
        scratch, body = self._scratch(), secrets.token_bytes(1024)
        await self._storage.put(scratch, body)
        try:
            seconds = max(self._settings.presign_seconds, int(self._settings.poll_deadline_seconds))
            url = await self._storage.presign(scratch, seconds=seconds)
            fault = await self._fetched(url, body)
        finally:
            await self._storage.delete(scratch)
        return fault or await self._lasting(url, seconds)

    async def _fetched(self, url: str, body: bytes) -> Finding | None:
        """Fetch it as a stranger would, though from here, and so also from a private host."""
        hosts = self._settings.private_hosts | {urlsplit(url).netloc}
        async with Fetcher(self._settings.model_copy(update={"private_hosts": hosts})) as fetcher:
            try:
                found = await fetcher.fetch_bytes(url, limit=len(body))
            except FetchError as error:
                return Finding("presigned URL", Level.FAULT, error.message, "Check endpoint, region and credentials")
        if found.body != body:
            return Finding("presigned URL", Level.FAULT, "it gave other bytes than were put", "Check AWS_ENDPOINT_URL")
        return None

    async def _lasting(self, url: str, seconds: int) -> Finding:
        host = urlsplit(url).hostname or ""
        if not await _is_public_host(url) and await _is_public_host(self._settings.base_url):
            message = f"it works from here, but {host} is a private address: the provider cannot fetch images from it"
            return Finding("presigned URL", Level.WARNING, message, "Use an S3 endpoint that the internet reaches")
        if self._storage.credentials_end_within(seconds):
            message = f"the credentials end in less than the {seconds} s for which the provider may fetch images"
            return Finding("presigned URL", Level.WARNING, message, "Renew them, or use some that last longer")
        return Finding("presigned URL", Level.OK, f"{host} gives images without credentials, for {seconds} s")

    async def ledger(self) -> Finding:
        """The ledger is this provider's and account's, and not paused."""
        page = await Ledger(self._storage, self._settings).read_info()
        if page is None:
            return Finding("ledger", Level.OK, f"{self._settings.jobs} is new: the first run makes it")
        mine = (provider_host(self._settings), self._settings.account_label)
        if (page.host, page.account) != mine:
            message = f"{self._settings.jobs} belongs to {page.host} (account {page.account!r}), not to {mine[0]}"
            return Finding("ledger", Level.FAULT, message, "Use another bucket or I2V_JOBS_PREFIX for each provider")
        if page.paused:
            return Finding("ledger", Level.WARNING, "all submits are paused", "Go on with: i2v resume")
        return Finding("ledger", Level.OK, f"{self._settings.jobs} is {page.host}'s, account {page.account!r}")

    async def lifecycle(self) -> Finding:
        """No rule takes the ledger or the videos away."""
        rules: list[dict[str, Any]] = []
        jobs, videos = self._settings.jobs, self._settings.videos
        try:
            for bucket in sorted({jobs.bucket, videos.bucket}):
                rules += [{**rule, "Bucket": bucket} for rule in await self._rules(bucket)]
        except StorageError as error:
            hint = f"See for yourself that no lifecycle rule covers {jobs}"
            return Finding("lifecycle", Level.WARNING, f"the rules cannot be read: {error.message}", hint)
        for place, level in ((jobs, Level.FAULT), (videos, Level.WARNING)):
            if rule := next((rule for rule in rules if takes_away(rule, place)), None):
                name = rule.get("ID") or "without a name"
                message = f"the rule {name!r} lets S3 remove or freeze what lies under {place}"
                return Finding("lifecycle", level, message, "Without the ledger, videos are paid again: limit the rule")
        return Finding("lifecycle", Level.OK, "no rule touches ledger or videos")

    async def _rules(self, bucket: str) -> Sequence[dict[str, Any]]:
        get = self._storage.client.get_bucket_lifecycle_configuration
        try:
            rules: Sequence[dict[str, Any]] = (await self._storage.call(S3Uri(bucket, ""), get, Bucket=bucket))["Rules"]
        except NotFound:
            return ()
        return rules

    async def versioning(self) -> Finding:
        """Whether an image can be handed over by its version."""
        bucket = self._settings.images.bucket
        get = self._storage.client.get_bucket_versioning
        try:
            status = (await self._storage.call(S3Uri(bucket, ""), get, Bucket=bucket)).get("Status")
        except StorageError as error:
            return Finding("versioning", Level.WARNING, f"not known: {error.message}", "It is not needed")
        if status == "Enabled":
            return Finding("versioning", Level.OK, "on: images are handed over by their version")
        return Finding("versioning", Level.OK, "off: an image replaced while its video is made is noticed and flagged")

    async def clock(self) -> Finding:
        """This machine's clock against S3's."""
        scratch = self._scratch()
        await self._storage.put(scratch, b"")
        try:
            skew = (datetime.now(UTC) - (await self._storage.head(scratch)).served_at).total_seconds()
        finally:
            await self._storage.delete(scratch)
        if abs(skew) > SKEW_SECONDS:
            words = f"this machine's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} S3's"
            return Finding("clock", Level.WARNING, words, "Set it by NTP; S3 refuses requests that are 15 min off")
        return Finding("clock", Level.OK, f"within {max(1, round(abs(skew)))} s of S3's")

    async def callbacks(self) -> Finding:
        """Callbacks are off, or can come: strong secrets, and the door behind a public https address."""
        base = self._settings.callback_base_url
        if base is None and not self._settings.callback_secrets:
            message = "off: runs poll; I2V_CALLBACK_BASE_URL and I2V_CALLBACK_SECRET turn them on"
            return Finding("callbacks", Level.OK, message)
        await check_callbacks(self._settings)
        async with Fetcher(self._settings) as fetcher:
            try:
                found = await fetcher.fetch_bytes(f"{base}/healthz", limit=HEALTH_LIMIT_BYTES)
            except FetchError as error:
                return _door_is_away(error)
        if not _is_live(found.body):
            message = f"what answers at {base}/healthz is not the door"
            return Finding(
                "callbacks", Level.FAULT, message, "Check I2V_CALLBACK_BASE_URL and what the proxy passes on"
            )
        return Finding("callbacks", Level.OK, f"the door answers at {base}, as the provider will reach it")

    def _scratch(self) -> S3Uri:
        return self._settings.jobs / f"doctor/{secrets.token_hex(8)}"


def _door_is_away(error: FetchError) -> Finding:
    """Nothing of the door answers, or it says itself that nothing can come in."""
    if error.status == HTTPStatus.SERVICE_UNAVAILABLE:
        hint = "Ask its own /healthz from inside: it says what is wrong"
        return Finding("callbacks", Level.FAULT, f"the door is not ready: {error.message}", hint)
    hint = "Start python -m doors and the proxy before it; until then reconcile polls what is not called back"
    return Finding("callbacks", Level.FAULT, f"the door cannot be reached: {error.message}", hint)


def _is_live(body: bytes) -> bool:
    """Whether the door says so."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(said, dict) and said.get("live") is True


def takes_away(rule: dict[str, Any], place: S3Uri) -> bool:
    """Whether a lifecycle rule expires objects under a prefix, or moves them where they cannot be read at once.

    A rule that looks at tags passes ours by, which have none; our scratch and input copies may go.
    """
    where = rule.get("Filter") or {}
    both = where.get("And") or {}
    if rule.get("Status") != "Enabled" or rule["Bucket"] != place.bucket or "Tag" in where or both.get("Tags"):
        return False
    prefix = rule.get("Prefix") or where.get("Prefix") or both.get("Prefix") or ""
    if not (place.key.startswith(prefix) or prefix.startswith(place.key)):
        return False
    if prefix.startswith((place.key + "doctor/", place.key + "inputs/", place.key + "runs/")):
        return False
    expires = rule.get("Expiration") or {}
    freezes = any(move.get("StorageClass") in COLD for move in rule.get("Transitions") or ())
    return bool({"Days", "Date"} & expires.keys()) or freezes


def _of_rights(name: str, place: S3Uri, lacks: dict[str, str]) -> Finding:
    """What missing rights mean: some are needed by nobody but `i2v run FILE`, or for tidiness."""
    if not lacks:
        return Finding(f"rights {name}", Level.OK, f"list, get, put and delete under {place}")
    message = f"under {place}: {'; '.join(lacks.values())}"
    if lacks.keys() <= SPARED[name]:
        return Finding(f"rights {name}", Level.WARNING, message, "Runs can do without; only local files are put there")
    return Finding(f"rights {name}", Level.FAULT, message, f"Grant the credentials {', '.join(lacks)} there")


async def _is_public_host(url: str) -> bool:
    """Whether all of a URL's addresses lie in the public internet; one that is not known here may well."""
    parts = urlsplit(url)
    try:
        found = await resolve_host(parts.hostname or "", parts.port or 443)
    except OSError:
        return True
    return all(is_public(address) for address in found)
