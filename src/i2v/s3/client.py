"""The boto3 session and client, from the usual AWS environment, for Amazon S3 and compatible servers."""

from datetime import datetime
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import boto3
import botocore.session
from botocore.config import Config
from botocore.handlers import add_expect_header
from botocore.loaders import Loader, create_loader
from botocore.utils import parse_timestamp

THREADS = 32
ATTEMPTS = 4
"""How often boto3 sends a request that fails, the first time included."""


def new_session(**arguments: Any) -> boto3.Session:
    """Return a boto3 session that parses timestamps fast; `arguments` are those of `boto3.Session`."""
    inner = botocore.session.get_session()
    inner.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_timestamp)
    session = boto3.Session(botocore_session=inner, **arguments)  # extends the search path of its own loader
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


def s3_client(session: boto3.Session | None = None) -> Any:
    """Return an S3 client; servers other than Amazon's get path-style addressing unless configured otherwise."""
    session = session or new_session()
    config = Config(
        max_pool_connections=THREADS,
        connect_timeout=5,
        read_timeout=30,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        signature_version="s3v4",
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    client = _without_expect(session.client("s3", config=config))
    host = urlsplit(client.meta.endpoint_url).hostname or ""
    configured_style = (getattr(client.meta.config, "s3", None) or {}).get("addressing_style")
    if host.endswith((".amazonaws.com", ".amazonaws.com.cn")) or configured_style:
        return client
    return _without_expect(session.client("s3", config=config.merge(Config(s3={"addressing_style": "path"}))))


def _without_expect(client: Any) -> Any:
    """Send the body of a PUT at once: waiting for 100 Continue costs a round trip, or 1 s if a server ignores it."""
    client.meta.events.unregister("before-call.s3", add_expect_header)
    return client
