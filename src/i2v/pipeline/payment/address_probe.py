"""A look at the first presigned URL of a run, as the provider will see it: `AddressProbe`.

A URL that does not work for a stranger would cost one failed task per image. If this host cannot connect, the provider
may still be able to, so this is only logged.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from i2v.advised_commands import command
from i2v.errors import FetchError, NotTried
from i2v.ledger.job import JobImage
from i2v.net.fetcher import Fetcher, FirstByte
from i2v.pipeline.submit_brake import Brake
from i2v.s3.failures import CAUSES

log = logging.getLogger(__name__)
_HINTS = {
    400: "Check the bucket's region (AWS_REGION) and how it is encrypted",
    403: "Check the credentials' rights to read, this host's clock, and the key of an encrypted bucket",
    404: "Check the endpoint, and whether the image still exists",
}
_RANGE_OR_WHOLE = (200, 206)
_FOR_NOW = (429, 500, 502, 503, 504)
"""These say nothing about the URL."""


class AddressProbe:
    """Fetches one byte of the first image of a run; stops the run if it cannot be fetched as handed over."""

    def __init__(self, fetcher: Fetcher, brake: Brake) -> None:
        self._fetcher = fetcher
        self._brake = brake
        self._lock = asyncio.Lock()
        self._done = False

    async def check(self, url: str, image: JobImage, raise_if_changed: Callable[[], Awaitable[None]]) -> None:
        """Check the run's first URL. Raise `NotTried`, and stop the run's submits, if it does not work.

        If it does not work, `raise_if_changed` comes first: it raises if the image is gone or replaced, and the next
        URL is then checked instead.
        """
        async with self._lock:
            self._brake.check_submit()
            if self._done:
                return
            problem = None
            try:
                found = await self._fetcher.fetch_first_byte(url)
            except FetchError as error:
                log.info("the presigned URL could not be tried from here: %s", error)
            else:
                if found.status in _FOR_NOW:
                    log.info("the presigned URL returned %d %s; the next one is tried", found.status, found.code)
                    return
                problem = _problem(found, image)
            if problem:
                await raise_if_changed()
                message, hint = problem
                self._brake.stop("address", message)
                raise NotTried(f"Not submitted: {message}", hint)
            self._done = True


def response_problem(what: str, found: FirstByte) -> tuple[str, str] | None:
    """Return why a response to a presigned URL is not the object, and what to do about it."""
    if found.location:
        return f"{what} redirects ({found.status})", "Check the bucket's region (AWS_REGION) and AWS_ENDPOINT_URL"
    if found.status in _RANGE_OR_WHOLE:
        return None
    message = f"{what} returned {found.status} {found.code}".rstrip()
    if found.code in CAUSES:
        cause, hint = CAUSES[found.code]
        return f"{message}: {cause}", hint
    return message, _HINTS.get(found.status, f"Check AWS_ENDPOINT_URL and what answers there: {command('doctor')}")


def _problem(found: FirstByte, image: JobImage) -> tuple[str, str] | None:
    """Return what is wrong with the response, and what to do about it."""
    what = f"the presigned URL of {image.label}"
    if problem := response_problem(what, found):
        return problem
    if found.size is not None and found.size != image.facts.size:
        return f"{what} has {found.size} bytes, the image has {image.facts.size}", "Check for a proxy before S3"
    kind = (found.content_type or "").partition("/")[0].strip().lower()
    if kind in {"text", "multipart"}:
        return f"{what} has the content type {found.content_type}", "Check for a proxy before S3, and the object's type"
    return None
