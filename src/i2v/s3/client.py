"""The boto3 session and client, from the usual AWS environment, for Amazon S3 and compatible servers.

What users configure for boto3 counts; `_VARIABLES` only changes defaults.
"""

from datetime import datetime
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError
from botocore.handlers import add_expect_header
from botocore.loaders import Loader, create_loader
from botocore.utils import parse_timestamp

from i2v.errors import UsageError
from i2v.s3.failures import WebPageError
from i2v.urls import redact_urls

THREADS = 32
ATTEMPTS = 4
"""How often boto3 sends a request that fails, the first time included, unless AWS_MAX_ATTEMPTS is set."""
_VARIABLES: dict[str, Any] = {
    "region": ("region", ["AWS_DEFAULT_REGION", "AWS_REGION"], None, None),
    "ca_bundle": ("ca_bundle", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"], None, None),
    "retry_mode": ("retry_mode", "AWS_RETRY_MODE", "standard", None),
    "max_attempts": ("max_attempts", "AWS_MAX_ATTEMPTS", ATTEMPTS, int),
    "request_checksum_calculation": (
        "request_checksum_calculation",
        "AWS_REQUEST_CHECKSUM_CALCULATION",
        "when_required",
        None,
    ),
    "response_checksum_validation": (
        "response_checksum_validation",
        "AWS_RESPONSE_CHECKSUM_VALIDATION",
        "when_required",
        None,
    ),
}
"""boto3's settings with another default or another variable: name in the config file, variables, default, type."""
_AMAZON = ("amazonaws.com", "amazonaws.com.cn", "amazonaws.eu", "api.aws", "ic.gov", "sgov.gov", "adc-e.uk")
"""The domains of AWS partitions."""


def new_session(**arguments: Any) -> boto3.Session:
    """Return a boto3 session that parses timestamps fast; `arguments` are those of `boto3.Session`."""
    inner = botocore.session.get_session(_VARIABLES)
    inner.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_timestamp)
    try:
        session = boto3.Session(botocore_session=inner, **arguments)  # extends the search path of its own loader
    except BotoCoreError as error:
        raise _unusable(error) from None
    inner.register_component("data_loader", _loader(inner.get_config_variable("data_path")))
    return session


@cache
def _loader(data_path: str | None) -> Loader:
    """Return the loader of boto3's service descriptions. One for all sessions: reading them takes 0.1 s of CPU."""
    return create_loader(data_path)


def _timestamp(value: Any) -> datetime:
    """Parse a time in a response. With boto3's own parser a listing takes twice the CPU."""
    try:
        return datetime.fromisoformat(value)
    except (TypeError, ValueError):  # headers use the HTTP date format
        parsed: datetime = parse_timestamp(value)
        return parsed


def s3_client(session: boto3.Session | None = None, region: str | None = None, style: str | None = None) -> Any:
    """Return an S3 client; servers other than Amazon's get path-style addressing unless configured otherwise.

    Raise `UsageError` if boto3's settings cannot be used.
    """
    session = session or new_session()
    try:
        client = _make_client(session, region, style)
        if style or is_amazon(client) or configured_style(client):
            return client
        return _make_client(session, region, "path")
    except (BotoCoreError, ValueError) as error:
        raise _unusable(error) from None


def is_amazon(client: Any) -> bool:
    """Return whether a client talks to Amazon S3 itself, and not through an interface endpoint of a VPC."""
    host = urlsplit(client.meta.endpoint_url).hostname or ""
    return host.endswith(tuple(f".{domain}" for domain in _AMAZON)) and ".vpce." not in host


def configured_style(client: Any) -> str | None:
    """Return the addressing style of a client, unless it is up to boto3."""
    style: str | None = (client.meta.config.s3 or {}).get("addressing_style")
    return None if style == "auto" else style


def _make_client(session: boto3.Session, region: str | None, style: str | None) -> Any:
    profile = None if session.profile_name == "default" else session.profile_name
    value = botocore.session.Session(_VARIABLES, include_builtin_handlers=False, profile=profile).get_config_variable
    s3: Any = {"addressing_style": style, "us_east_1_regional_endpoint": "regional"} if style else None
    config = Config(
        max_pool_connections=THREADS,
        connect_timeout=5,
        read_timeout=30,
        retries={"mode": value("retry_mode"), "total_max_attempts": value("max_attempts")},
        signature_version="s3v4",
        request_checksum_calculation=value("request_checksum_calculation"),
        response_checksum_validation=value("response_checksum_validation"),
        s3=s3,
    )
    region = region or session.region_name or value("region")
    client = session.client("s3", region_name=region, config=config, verify=value("ca_bundle"))
    if "@" in urlsplit(client.meta.endpoint_url).netloc:
        raise UsageError(
            "AWS_ENDPOINT_URL has a user name or password, which presigned URLs would show",
            "Remove them; the credentials go to AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        )
    client.meta.events.register("after-call.s3", _reject_web_page)
    # The body of a PUT is sent at once: waiting for 100 Continue costs a round trip, or 1 s if a server ignores it.
    client.meta.events.unregister("before-call.s3", add_expect_header)
    return client


def _unusable(error: Exception) -> UsageError:
    return UsageError(f"The AWS settings cannot be used: {redact_urls(str(error))}", "Check AWS_* and ~/.aws/config")


def _reject_web_page(http_response: Any, **_: object) -> None:
    """Raise `WebPageError` if the response is a web page, and not an object that is one."""
    headers = http_response.headers
    if "html" in headers.get("Content-Type", "") and "ETag" not in headers:
        raise WebPageError(status=http_response.status_code, content_type=headers["Content-Type"])
