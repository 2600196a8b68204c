"""Presigned URLs name the bucket's own region and its regional host, whatever boto3 would do."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest
from botocore.stub import Stubber

from i2v.errors import UsageError
from i2v.s3.client import new_session, s3_client
from i2v.s3.links import LinkSigner

PATH_STYLE = "https://s3.example/storage/v1/s3"


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set credentials and a region."""
    for name, value in {"ACCESS_KEY_ID": "k", "SECRET_ACCESS_KEY": "s", "REGION": "us-west-2"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)


def sign(bucket: str = "b-1", region: str | None = None, status: int = 200, **params: str) -> str:
    """Presign a URL after S3 has answered HeadBucket like this."""
    session = new_session()
    client = s3_client(session)
    headers = {"x-amz-bucket-region": region} if region else {}
    signer = LinkSigner(client, session, {})
    with Stubber(client) as stub:
        if status == 200:
            stub.add_response("head_bucket", {"ResponseMetadata": {"HTTPStatusCode": 200, "HTTPHeaders": headers}})
        else:
            metadata = {"HTTPStatusCode": status, "HTTPHeaders": headers}
            stub.add_client_error("head_bucket", str(status), response_meta=metadata)
        url = signer.sign({"Bucket": bucket, "Key": "a b.jpg", **params}, 60)
        assert (
            signer.sign({"Bucket": bucket, "Key": "a b.jpg", **params}, 60).partition("?")[0] == url.partition("?")[0]
        )
    return url


def host_and_region(url: str) -> tuple[str, str]:
    """Return the host, and the region that the signature is for. It is version 4 and covers the host alone."""
    query = parse_qs(urlsplit(url).query)
    assert query["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"]
    assert query["X-Amz-SignedHeaders"] == ["host"]
    return urlsplit(url).netloc, query["X-Amz-Credential"][0].split("/")[2]


@pytest.mark.parametrize(
    ("variables", "bucket", "host", "region"),
    [
        ({}, "b-1", "b-1.s3.us-west-2.amazonaws.com", "us-west-2"),
        ({"AWS_REGION": "us-east-1"}, "b-1", "b-1.s3.us-east-1.amazonaws.com", "us-east-1"),
        ({"AWS_REGION": "af-south-1"}, "b-1", "b-1.s3.af-south-1.amazonaws.com", "af-south-1"),
        ({"AWS_DEFAULT_REGION": "eu-west-1"}, "b-1", "b-1.s3.eu-west-1.amazonaws.com", "eu-west-1"),
        ({"AWS_REGION": "cn-north-1"}, "b-1", "b-1.s3.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        ({"AWS_REGION": "eusc-de-east-1"}, "b-1", "b-1.s3.eusc-de-east-1.amazonaws.eu", "eusc-de-east-1"),
        ({"AWS_USE_FIPS_ENDPOINT": "true"}, "b-1", "b-1.s3-fips.us-west-2.amazonaws.com", "us-west-2"),
        ({"AWS_USE_DUALSTACK_ENDPOINT": "true"}, "b-1", "b-1.s3.dualstack.us-west-2.amazonaws.com", "us-west-2"),
        ({}, "my.bucket", "s3.us-west-2.amazonaws.com", "us-west-2"),
        ({"AWS_ENDPOINT_URL": PATH_STYLE}, "b-1", "s3.example", "us-west-2"),
        ({"AWS_ENDPOINT_URL": "https://s3.example.gov.uk"}, "b-1", "s3.example.gov.uk", "us-west-2"),
        (
            {"AWS_ENDPOINT_URL": "https://bucket.vpce-1.s3.us-west-2.vpce.amazonaws.com"},
            "b-1",
            "bucket.vpce-1.s3.us-west-2.vpce.amazonaws.com",
            "us-west-2",
        ),
    ],
)
def test_a_url_names_the_regional_host(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], bucket: str, host: str, region: str
) -> None:
    """Regions that were enabled later, FIPS, dual-stack, dots, path style and a path in the endpoint."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    url = sign(bucket)
    assert host_and_region(url) == (host, region)
    if host == "s3.example":
        assert urlsplit(url).path == "/storage/v1/s3/b-1/a%20b.jpg"


@pytest.mark.parametrize("status", [400, 403, 301])
def test_a_url_follows_the_bucket_to_its_region(status: int) -> None:
    """The region that S3 names in a refusal counts more than the one that is configured."""
    assert host_and_region(sign(region="eu-central-1", status=status)) == (
        "b-1.s3.eu-central-1.amazonaws.com",
        "eu-central-1",
    )


def test_a_url_asks_for_a_content_type() -> None:
    """The provider gets the type that the image has, whatever is stored with the object."""
    assert parse_qs(urlsplit(sign(ResponseContentType="image/jpeg")).query)["response-content-type"] == ["image/jpeg"]


def test_a_configured_style_counts(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The config file's addressing style is kept for URLs too."""
    config = tmp_path_factory.mktemp("aws") / "config"
    config.write_text("[default]\ns3 =\n  addressing_style = path\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    assert host_and_region(sign()) == ("s3.us-west-2.amazonaws.com", "us-west-2")


@pytest.mark.parametrize("endpoint", ["https://user:hunter2@s3.example", "localhost:9000"])
def test_an_endpoint_that_cannot_be_used_is_a_usage_error(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """A password would be in each URL; an address without https:// is no URL. Neither message shows the password."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(UsageError) as caught:
        s3_client()
    assert "hunter2" not in str(caught.value)
