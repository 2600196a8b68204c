"""The address that the provider calls back, and what may be believed of a callback: a signed hint, never a proof.

Pure: nothing here takes a request or asks a status. The vendor signs nothing, so the address itself bears a signature
over job and attempt; what came of the task is asked of the provider (`i2v.recovery.callbacks`).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from pydantic import SecretStr

from i2v.errors import FetchError, UsageError
from i2v.net.address_policy import AddressPolicy, Resolver, look_up
from i2v.settings import Settings

PATH = "/apixo"
"""Below the base URL: `/apixo/{job}/{attempt}/{signature}`."""
SECRET_LEAST_CHARS = 16
BODY_LIMIT_BYTES = 1 << 20
TASK_ID_CHARS = 256
SIGNATURE_CHARS = 64

_JOB = re.compile(r"[0-9a-f]{64}")
_ATTEMPT = re.compile(r"[1-9][0-9]{0,8}")
_SIGNED = re.compile(
    rf"((?:{PATH}|%2Fapixo)(?:/|%2F)[0-9a-f]{{64}}(?:/|%2F)[0-9]+(?:/|%2F))[0-9A-Za-z]+", re.IGNORECASE
)
_HINT = (
    "Set I2V_CALLBACK_BASE_URL to where the provider reaches the door, and I2V_CALLBACK_SECRET to a long random text"
)


@dataclass(frozen=True, slots=True)
class Hint:
    """What a callback's body may tell: which task it is about. Its state and its URLs are not even read."""

    task_id: str


def callback_url(settings: Settings, job: str, attempt: int) -> str:
    """Where the provider posts the end of this attempt; secret, since whoever has it may give hints.

    Raises:
        UsageError: base URL or secret is not set.
    """
    if settings.callback_base_url is None or not settings.callback_secrets:
        raise UsageError("Callbacks are not set up", _HINT)
    signature = _sign(settings.callback_secrets[0], job, str(attempt))
    return f"{settings.callback_base_url}{PATH}/{job}/{attempt}/{signature}"


def verify(settings: Settings, job: str, attempt: str, signature: str) -> bool:
    """Whether one of our secrets signed this, in constant time; whatever the texts are, it never raises."""
    if len(signature) != SIGNATURE_CHARS or not _JOB.fullmatch(job) or not _ATTEMPT.fullmatch(attempt):
        return False
    given = signature.encode(errors="replace")
    signed = [_sign(secret, job, attempt).encode() for secret in settings.callback_secrets]
    return any([hmac.compare_digest(given, ours) for ours in signed])  # noqa: C419 - all are compared, for the time


def _sign(secret: SecretStr, job: str, attempt: str) -> str:
    message = f"i2v callback {job}/{attempt}".encode()
    return hmac.new(secret.get_secret_value().encode(), message, hashlib.sha256).hexdigest()


def hide_signatures(text: str) -> str:
    """A text of the provider's that may repeat the address, as it may be shown."""
    return _SIGNED.sub(r"\1…", text)


def hint_of(body: bytes) -> Hint | None:
    """The task that a callback's body names, or `None` where it is too large, no JSON object, or names none."""
    if len(body) > BODY_LIMIT_BYTES:
        return None
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    data = document.get("data") if isinstance(document, dict) else None
    task_id = data.get("taskId") if isinstance(data, dict) else None
    return Hint(task_id) if isinstance(task_id, str) and is_task_id(task_id) else None


def is_task_id(text: str) -> bool:
    """Whether a text can be a task id: opaque, but short, and nothing that could hide in a log or a name."""
    return 0 < len(text) <= TASK_ID_CHARS and text.isascii() and text.isprintable() and not text.isspace()


def secrets_fault(settings: Settings) -> UsageError | None:
    """What is wrong with the callback's secrets, if anything; they are not shown."""
    if not settings.callback_secrets:
        return UsageError("Callbacks need I2V_CALLBACK_SECRET, which is not set", _HINT)
    short = [secret for secret in settings.callback_secrets if len(secret.get_secret_value()) < SECRET_LEAST_CHARS]
    if short:
        message = f"I2V_CALLBACK_SECRET is too short: each secret needs {SECRET_LEAST_CHARS} characters or more"
        return UsageError(message, "Make one with: openssl rand -hex 32")
    return None


def half_set_fault(settings: Settings) -> UsageError | None:
    """What is wrong with the settings of a door that may take callbacks or not: both variables, or none."""
    if settings.callback_base_url is None and not settings.callback_secrets:
        return None
    return _base_fault(settings) or secrets_fault(settings)


def _base_fault(settings: Settings) -> UsageError | None:
    if settings.callback_base_url is not None:
        return None
    return UsageError("Callbacks need I2V_CALLBACK_BASE_URL, which is not set", _HINT)


async def check_callbacks(settings: Settings, resolve: Resolver = look_up) -> None:
    """Prove, before anything is paid, that callbacks can come and be told from others'.

    A host that cannot be looked up from here passes: the provider may know it, and `i2v doctor` looks closer.

    Raises:
        UsageError: no base URL, no secret or a short one, or a base URL that is neither public https nor allowed.
    """
    if fault := _base_fault(settings) or secrets_fault(settings):
        raise fault
    parts = urlsplit(str(settings.callback_base_url))
    if parts.query or parts.fragment or parts.username:
        raise UsageError(
            "I2V_CALLBACK_BASE_URL may have no user name, query or fragment", "Set it to https://host/path"
        )
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    try:
        await AddressPolicy(settings.private_hosts, resolve).addresses(
            parts.scheme, host, port, name="I2V_CALLBACK_BASE_URL"
        )
    except FetchError as error:
        if error.forbidden:
            allow = f"I2V_PRIVATE_HOSTS={host}:{port}"
            raise UsageError(
                f"I2V_CALLBACK_BASE_URL is no public https address, so the provider cannot call back: {error.message}",
                f"Use the https address that the internet reaches; if this one is meant, allow it: {allow}",
            ) from None
