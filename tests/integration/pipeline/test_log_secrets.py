"""Promise 9 at DEBUG: a run of the library with known secrets, and a search for them in everything that it logs."""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import parse_qs, urlsplit

import boto3
import pytest

from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import find_items
from i2v.logs import HIDDEN, HTTP_LIBRARIES, protect_logs
from i2v.pipeline.generate import Steps, generate
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri
from sandbox import Sandbox
from tests.support.orders import OpenRun, put_photo
from tests.support.secret_search import SecretSearch


@pytest.fixture
def session(sandbox: Sandbox, aws: None, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Return temporary AWS credentials, which are in the environment."""
    client = boto3.client("sts")
    issued = client.get_session_token()["Credentials"]
    client.close()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", issued["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", issued["SecretAccessKey"])
    monkeypatch.setenv("AWS_SESSION_TOKEN", issued["SessionToken"])
    return {"secret key": issued["SecretAccessKey"], "session token": issued["SessionToken"]}


@contextmanager
def _everything_at_debug() -> Iterator[io.StringIO]:
    """Log everything of every library, as a user may configure it after i2v has started."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    loggers = [logging.getLogger(name) for name in ("", *logging.root.manager.loggerDict, *HTTP_LIBRARIES)]
    levels = [(logger, logger.level) for logger in loggers]
    make = logging.getLogRecordFactory()
    logging.getLogger().addHandler(handler)
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    try:
        yield stream
    finally:
        logging.setLogRecordFactory(make)
        logging.getLogger().removeHandler(handler)
        for logger, level in levels:
            logger.setLevel(level)


async def test_a_run_logs_no_secret_at_debug(sandbox: Sandbox, new_run: OpenRun, session: dict[str, str]) -> None:
    """A paid video, a signed image URL and an S3 error leave no key, token or signature in any logger at DEBUG."""
    uri = put_photo(sandbox)
    signed = sandbox.presign(put_photo(sandbox, "other.jpg", seed=2))
    (signature,) = parse_qs(urlsplit(signed).query)["X-Amz-Signature"]
    protect_logs()
    with _everything_at_debug() as stream:
        async with new_run() as run:
            items = await find_items([uri, signed], run.storage, run.settings)
            report, _ = await generate(run, items, RequestOptions(prompt="it moves"), Steps())
    assert [item.outcome for item in report.items] == ["stored", "stored"]
    search = SecretSearch({**session, "signature": signature, "any": "X-Amz-Signature=", "scheme": "AWS4-HMAC-SHA256"})
    search.search("logs", stream.getvalue())
    assert search.found == set()
    assert {line.partition(".")[0] for line in stream.getvalue().splitlines() if HIDDEN in line} >= {"botocore"}


async def test_the_search_finds_what_would_be_logged(sandbox: Sandbox, session: dict[str, str], aws: None) -> None:
    """Without the protection the same search finds the session token and signatures: it is not blind."""
    uri = S3Uri.parse(put_photo(sandbox))
    with _everything_at_debug() as stream, Storage() as storage:
        logging.setLogRecordFactory(logging.LogRecord)
        await storage.get(uri)
        await storage.presign(uri, seconds=60)
    search = SecretSearch({**session, "scheme": "AWS4-HMAC-SHA256"})
    search.search("logs", stream.getvalue())
    assert search.found >= {("session token", "logs"), ("scheme", "logs")}
