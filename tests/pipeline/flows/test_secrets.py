"""Promise 9: run everything with known secrets, then search for them in everything that is stored or printed."""

from __future__ import annotations

import base64
import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from html import escape
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import boto3
import pytest

from sandbox import Sandbox
from sandbox.prefect_server import PrefectServer
from sandbox.sandbox import REGION
from sandbox.synthetic_images import make_jpeg
from tests.support.forked_command import forked_i2v
from tests.support.i2v_command import Result, run_script
from tests.support.secret_search import AllowedLinks, SecretSearch, forms, values_in

pytestmark = pytest.mark.timeout(240)
KEY = "sk-apixo/9f3+8c1d2e77=AbC"
"""Has characters that are encoded differently in a URL and in base64."""
CALLBACK_SECRETS = ("callback-secret/new+5d0c", "callback-secret/old+77aa")
DOOR_TOKEN = "door-token/1f6b+90ce"
LINK_SECONDS = 3600
REPORT = "import asyncio, flows.report; asyncio.run(flows.report.report_spend())"


@pytest.fixture
def credentials(sandbox: Sandbox) -> dict[str, str]:
    """Return temporary AWS credentials that only this test uses."""
    client = boto3.client(
        "sts", endpoint_url=sandbox.aws.url, region_name=REGION, aws_access_key_id="test", aws_secret_access_key="test"
    )
    issued = client.get_session_token()["Credentials"]
    client.close()
    return {
        "AWS_ACCESS_KEY_ID": issued["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": issued["SecretAccessKey"],
        "AWS_SESSION_TOKEN": issued["SessionToken"],
    }


@pytest.fixture
def env(child_env: Mapping[str, str], sandbox: Sandbox, credentials: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Return an environment with a known value for every secret."""
    sandbox.provider.set_options(api_key=KEY)
    yield {
        **child_env,
        **credentials,
        "APIXO_API_KEY": KEY,
        "I2V_CALLBACK_BASE_URL": f"http://{sandbox.provider.address}",
        "I2V_CALLBACK_SECRET": ",".join(CALLBACK_SECRETS),
        "I2V_DOOR_TOKEN": DOOR_TOKEN,
        "I2V_LINK_SECONDS": str(LINK_SECONDS),
        "I2V_LOG_FORMAT": "json",
        "PREFECT_LOGGING_LEVEL": "DEBUG",
    }
    sandbox.provider.set_options(api_key="sandbox-key")


def _run_everything(sandbox: Sandbox, env: dict[str, str], signed: str) -> list[Result]:
    """Run images to every outcome, by poll and by callback, and each command that reports on them."""
    for number, name in enumerate(("good", "failed", "unknown", "refused by content", "callback")):
        sandbox.put_image(f"images/{name}.jpg", make_jpeg(400, 400, seed=number), prompt=f"it is {name}")
    sandbox.put_image("images/small.jpg", make_jpeg(200, 200), prompt="it is small")
    sandbox.provider.add_fault(on="submit", kind="lost_answer", prompt="it is unknown")
    sandbox.provider.add_fault(on="task", kind="fails", code="MODEL_UNAVAILABLE", prompt="it is failed", times=None)
    sandbox.provider.add_fault(on="submit", kind="answer", status=400, message=f"no, Bearer {KEY}", prompt="by content")
    prefix = f"s3://{sandbox.bucket}/images"
    polled = [f"{prefix}/{name}.jpg" for name in ("good", "failed", "unknown", "refused by content", "small")]
    results = [
        forked_i2v("run", *polled, signed, "--prompt", "it moves", "--verbose", env=env),
        forked_i2v("run", f"{prefix}/callback.jpg", "--delivery", "callback", "--verbose", "--json", env=env),
        forked_i2v("reconcile", "--verbose", env=env | {"I2V_CALLBACK_PATIENCE_SECONDS": "0.01"}),
        forked_i2v("jobs", "--json", env=env),
        forked_i2v("doctor", env=env),
        run_script(REPORT, env),
    ]
    keys = [job["key"] for job in json.loads(results[3].out)["jobs"]]
    return results + [forked_i2v("jobs", "show", key, env=env) for key in keys[:1]]


def test_no_secret_is_stored_or_printed(
    sandbox: Sandbox,
    env: dict[str, str],
    credentials: dict[str, str],
    prefect_server: PrefectServer,
    prefect_server_home: Path,
    tmp_path: Path,
) -> None:
    """No database, result, object or output has a key, a secret or a signature.

    The exception: links to posters, videos and manifests, in artifacts only, and for as long as the setting says.
    """
    database = prefect_server_home / "prefect.db"
    earlier = values_in(database)  # from other tests on this server, with links to other buckets
    sandbox.put_image("elsewhere/ann.jpg", make_jpeg(400, 400, seed=99))
    signed = sandbox.presign(f"s3://{sandbox.bucket}/elsewhere/ann.jpg")
    (signature,) = parse_qs(urlsplit(signed).query)["X-Amz-Signature"]
    results = _run_everything(sandbox, env, signed)
    assert [result.code for result in results[:3]] == [1, 0, 1], [result.err for result in results[:3]]
    assert results[5].code == 0, results[5].err

    search = SecretSearch(
        {
            "the API key": KEY,
            "the secret access key": credentials["AWS_SECRET_ACCESS_KEY"],
            "the session token": credentials["AWS_SESSION_TOKEN"],
            "a signature": signature,
            "the door token": DOOR_TOKEN,
            **{f"callback secret {number}": secret for number, secret in enumerate(CALLBACK_SECRETS)},
            **{f"callback signature {number}": text for number, text in enumerate(_callback_signatures(sandbox))},
            "any presigned URL": "X-Amz-Signature=",
        }
    )
    for result in results:
        search.search("output", result.out + result.err)
    search.search("the server's output", prefect_server.last_lines())
    search.search_bucket(sandbox)
    search.search_folder(Path(env["PREFECT_HOME"]))
    links = AllowedLinks(sandbox, LINK_SECONDS)
    search.search_database(database, allowed=links, earlier=earlier)
    assert search.searched > 1000
    assert links.count > 4
    assert search.found == set()


def _callback_signatures(sandbox: Sandbox) -> list[str]:
    """Return the signatures of all callback URLs that the provider got."""
    urls = [task.request.callback_url for task in sandbox.provider.tasks.values() if task.request.callback_url]
    assert urls
    return [url.rpartition("/")[2] for url in urls]


@pytest.mark.parametrize("spelling", sorted(forms(KEY)))
def test_a_planted_secret_is_found(sandbox: Sandbox, tmp_path: Path, spelling: bytes) -> None:
    """The search finds the key in each encoding in a file, in an object and in a table."""
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "one").write_bytes(b"x" * 5000 + spelling + b"y")
    sandbox.s3().put_object(Bucket=sandbox.bucket, Key="jobs/a.json", Body=b'{"a": "' + spelling + b'"}')
    with closing(sqlite3.connect(tmp_path / "prefect.db")) as database, database:
        database.execute("CREATE TABLE log (message TEXT)")
        database.execute("INSERT INTO log VALUES (?)", ("z" * 100_000 + spelling.decode(),))
    search = SecretSearch({"key": KEY})
    search.search_folder(tmp_path / "results")
    search.search_bucket(sandbox)
    search.search_database(tmp_path / "prefect.db")
    assert {where for _, where in search.found} == {
        "results/one",
        "object jobs/a.json",
        "table log, column message",
    }


def test_only_short_lived_links_in_artifacts_are_allowed(sandbox: Sandbox, tmp_path: Path) -> None:
    """A link is allowed only in an artifact, to a video's files, for the set time, and without a secret beside it."""
    bucket = f"s3://{sandbox.bucket}"
    good = sandbox.presign(f"{bucket}/videos/tom.jpg/a-b.mp4", LINK_SECONDS)
    wrong = {
        "the key beside it": f"[video]({good}) {KEY}",
        "the key in it": f"[video]({good}&X-Amz-Key={quote(KEY, safe='')})",
        "an image": sandbox.presign(f"{bucket}/images/tom.jpg", LINK_SECONDS),
        "the ledger": sandbox.presign(f"{bucket}/jobs/a.json", LINK_SECONDS),
        "for longer": sandbox.presign(f"{bucket}/videos/tom.jpg/a-b.mp4", 10 * LINK_SECONDS),
    }
    for table, text, found in (
        ("artifact", f"[video]({good})", False),
        ("artifact", f'<a href="{escape(good)}">', False),
        ("log", f"[video]({good})", True),
        *(("artifact", link, True) for link in wrong.values()),
    ):
        path = tmp_path / "prefect.db"
        path.unlink(missing_ok=True)
        with closing(sqlite3.connect(path)) as database, database:
            database.execute(f"CREATE TABLE {table} (data TEXT)")
            database.execute(f"INSERT INTO {table} VALUES (?)", (json.dumps(text),))  # noqa: S608 - a literal above
        search = SecretSearch({"key": KEY, "any presigned URL": "X-Amz-Signature="})
        search.search_database(path, allowed=AllowedLinks(sandbox, LINK_SECONDS))
        assert bool(search.found) is found, text


def test_the_search_decodes_base64_and_urls() -> None:
    """The search finds a key in a basic-auth header at any base64 offset, and in a URL's query."""
    for before in ("", "a", "ab"):
        search = SecretSearch({"key": KEY})
        search.search("header", base64.b64encode(f"{before}{KEY}:rest".encode()))
        search.search("address", f"https://example.org/?key={quote(KEY, safe='')}&b=1")
        assert {where for _, where in search.found} == {"header", "address"}
