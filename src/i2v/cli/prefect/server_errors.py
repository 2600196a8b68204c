"""What is wrong between us and a Prefect server, in words: `describe_server_error`."""

import json
import ssl
from collections.abc import Iterator
from http import HTTPStatus

from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL

from i2v.urls import redact_url

LOGIN_HINT = "Set PREFECT_API_AUTH_STRING=user:password for a self-hosted server, PREFECT_API_KEY for Prefect Cloud"
PATH_HINT = "PREFECT_API_URL must end in /api, e.g. http://127.0.0.1:4200/api"


def shown_api_url() -> str:
    """Return Prefect's API URL without credentials, or an empty string if none is configured."""
    return redact_url(PREFECT_API_URL.value() or "")


def is_unreachable(error: Exception) -> bool:
    """Return whether there is no connection to the server, as while it starts."""
    causes = list(_causes(error))
    return any(isinstance(each, OSError) for each in causes) and not any(
        isinstance(each, ssl.SSLError) for each in causes
    )


def is_rejected(error: Exception) -> bool:
    """Return whether the server rejected the request (4xx)."""
    return isinstance(error, PrefectHTTPStatusError) and error.response.is_client_error


def describe_server_error(error: Exception) -> tuple[str, str]:
    """Return what an error of Prefect's client means, and what to do. Neither contains credentials."""
    server, causes = f"The Prefect server at {shown_api_url()}", list(_causes(error))
    status = next((each.response.status_code for each in causes if isinstance(each, PrefectHTTPStatusError)), None)
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return f"{server} requires a login: it returned {status}", LOGIN_HINT
    if status in {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}:
        return f"{shown_api_url()} is not Prefect's API: it returned {status}", PATH_HINT
    if status is not None:
        is_busy = status == HTTPStatus.SERVICE_UNAVAILABLE
        hint = "It is starting or busy" if is_busy else "Client and server must have the same major version"
        return f"{server} returned {status}", f"{hint}; see the server's log"
    if any(isinstance(each, json.JSONDecodeError) for each in causes):
        return f"{shown_api_url()} is not Prefect's API: it returned a page instead of JSON", PATH_HINT
    if invalid := next((each for each in causes if isinstance(each, ssl.SSLError)), None):
        reason = getattr(invalid, "verify_message", "") or invalid.reason or "the TLS handshake failed"
        hint = "Set PREFECT_API_SSL_CERT_FILE (or SSL_CERT_FILE) to the file with your CA's certificate"
        return f"{server} has no valid TLS certificate: {reason}", hint
    hint = "Start it (prefect server start, with deployments/server.env), or correct PREFECT_API_URL"
    return f"{server} does not respond: {type(error).__name__}", hint


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
