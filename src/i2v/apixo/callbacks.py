"""The callback URL: signing, verification, settings, and the task id in a callback's body.

The provider does not sign callbacks, so the URL carries our signature of job and attempt. A callback is only a hint:
`i2v.recovery.adopt_from_callback` requests the status itself. No I/O here but the lookup of the host name.
"""

import hashlib
import hmac
import json
import re
from urllib.parse import urlsplit

from pydantic import SecretStr

from i2v.apixo.answers import read_task_id
from i2v.errors import FetchError, UsageError
from i2v.net.address_policy import AddressPolicy, Resolver, resolve_host
from i2v.settings import Settings

PATH = "/apixo"
"""Below the base URL: `/apixo/{job}/{attempt}/{signature}`."""
BODY_LIMIT_BYTES = 1 << 20
SIGNATURE_CHARS = 64

_JOB = re.compile(r"[0-9a-f]{64}")
_ATTEMPT = re.compile(r"[1-9][0-9]{0,8}")
_HINT = "Set I2V_CALLBACK_BASE_URL to the door's public URL, and I2V_CALLBACK_SECRET to a long random string"


def callback_url(settings: Settings, job: str, attempt: int) -> str:
    """Return the URL to which the provider posts the final status of this attempt. Keep it secret: it is signed.

    Raise `UsageError` if the base URL or the secret is not set.
    """
    if settings.callback_base_url is None or not settings.callback_secrets:
        raise UsageError("Callbacks are not set up", _HINT)
    signature = _sign(settings.callback_secrets[0], job, str(attempt))
    return f"{settings.callback_base_url}{PATH}/{job}/{attempt}/{signature}"


def verify(settings: Settings, job: str, attempt: str, signature: str) -> bool:
    """Return whether one of our secrets signed this. Takes constant time and never raises."""
    if len(signature) != SIGNATURE_CHARS or not _JOB.fullmatch(job) or not _ATTEMPT.fullmatch(attempt):
        return False
    given = signature.encode(errors="replace")
    signed = [_sign(secret, job, attempt).encode() for secret in settings.callback_secrets]
    return any([hmac.compare_digest(given, ours) for ours in signed])  # noqa: C419 - all are compared, for the time


def _sign(secret: SecretStr, job: str, attempt: str) -> str:
    message = f"i2v callback {job}/{attempt}".encode()
    return hmac.new(secret.get_secret_value().encode(), message, hashlib.sha256).hexdigest()


def callback_task_id(body: bytes) -> str | None:
    """Return the task id in a callback's body, `None` if there is no valid one or the body is too large."""
    if len(body) > BODY_LIMIT_BYTES:
        return None
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    data = document.get("data") if isinstance(document, dict) else None
    return (read_task_id(data.get("taskId")) or None) if isinstance(data, dict) else None


def callback_settings_error(settings: Settings) -> UsageError | None:
    """Return the error if only one of the two variables is set."""
    is_off = settings.callback_base_url is None and not settings.callback_secrets
    return None if is_off else _incomplete(settings)


def _incomplete(settings: Settings) -> UsageError | None:
    if settings.callback_base_url is None:
        return UsageError("Callbacks need I2V_CALLBACK_BASE_URL, which is not set", _HINT)
    if not settings.callback_secrets:
        return UsageError("Callbacks need I2V_CALLBACK_SECRET, which is not set", _HINT)
    return None


async def check_callbacks(settings: Settings, resolve: Resolver = resolve_host) -> None:
    """Raise UsageError unless the callback settings are complete and the base URL is public https or allowed.

    A host that cannot be resolved from here passes: the provider may know it. `i2v doctor` requests the URL.
    """
    if error := _incomplete(settings):
        raise error
    parts = urlsplit(str(settings.callback_base_url))
    if parts.query or parts.fragment or parts.username:
        message = "I2V_CALLBACK_BASE_URL must not have a user name, query or fragment"
        raise UsageError(message, "Set it to https://host/path")
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    policy = AddressPolicy(settings.private_hosts, resolve)
    try:
        await policy.addresses(parts.scheme, host, port, name="I2V_CALLBACK_BASE_URL")
    except FetchError as failure:
        if failure.forbidden:
            message = f"I2V_CALLBACK_BASE_URL is not a public https address: {failure.message}"
            raise UsageError(message, f"Use a public https address. {failure.hint}") from None
