"""`Sandbox` starts the provider emulator, S3 and SQS, and returns the settings to use them."""

from __future__ import annotations

import json
import uuid
from contextlib import ExitStack
from dataclasses import KW_ONLY, dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Self
from urllib.request import getproxies

import boto3
from botocore.config import Config

from sandbox.aws import Aws
from sandbox.provider import Provider, ProviderOptions

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient

REGION = "us-east-1"
ACCESS_KEY, SECRET_KEY = "test", "test"
VENDOR_RENDER_SECONDS = 100
"""About what the vendor takes. The poll schedule is scaled down by the same factor as rendering."""


@dataclass(eq=False)
class Sandbox:
    """The outside world on this machine: `with Sandbox() as sandbox:`. It never touches `os.environ`."""

    options: ProviderOptions = field(default_factory=ProviderOptions)
    """How the provider emulator behaves at start and after each reset."""
    _: KW_ONLY
    port: int = 0
    """The emulator's port; 0 picks a free one, here and for S3."""
    s3_port: int = 0
    bucket: str = ""
    """The bucket's name; a unique one by default."""
    versioning: bool = False
    """Whether buckets keep versions."""
    notifications: bool = False
    """Whether an SQS queue receives a notification for each new object."""
    queue_url: str | None = field(default=None, init=False)
    _stack: ExitStack = field(default_factory=ExitStack, init=False)

    def __post_init__(self) -> None:
        self.aws = Aws(port=self.s3_port)

    def __enter__(self) -> Self:
        """Start all servers and create a bucket. Raise `OSError` if a port is taken, `RuntimeError` if S3 fails."""
        with ExitStack() as stack:
            stack.enter_context(self.aws)
            options = self.options.model_copy(update={"s3_address": self.aws.address})
            self.provider = stack.enter_context(Provider(options, port=self.port))
            self.new_bucket(self.bucket)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def new_bucket(self, name: str = "") -> str:
        """Create a bucket and switch to it. Older buckets keep their objects."""
        self.bucket = name or f"i2v-{uuid.uuid4().hex[:12]}"
        self.s3().create_bucket(Bucket=self.bucket)
        if self.versioning:
            self.s3().put_bucket_versioning(Bucket=self.bucket, VersioningConfiguration={"Status": "Enabled"})
        if self.notifications:
            self.queue_url = self._create_queue()
        return self.bucket

    def _create_queue(self) -> str:
        queue = self.sqs().create_queue(QueueName=self.bucket)["QueueUrl"]
        arn = self.sqs().get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        configuration: Any = {"QueueConfigurations": [{"QueueArn": arn, "Events": ["s3:ObjectCreated:*"]}]}
        self.s3().put_bucket_notification_configuration(Bucket=self.bucket, NotificationConfiguration=configuration)
        return queue

    def reset(self) -> Self:
        """Switch to a new bucket and reset the emulator, keeping its rendered videos: for use between two tests."""
        self.provider.reset()
        self.new_bucket()
        return self

    @cache  # noqa: B019 - for the life of the sandbox
    def s3(self) -> S3Client:
        """Return the boto3 S3 client, shared by all threads."""
        config = Config(signature_version="s3v4", s3={"addressing_style": "path"})
        return _session().client("s3", endpoint_url=self.aws.url, config=config)

    @cache  # noqa: B019 - as above
    def sqs(self) -> SQSClient:
        """Return the boto3 SQS client, shared by all threads."""
        return _session().client("sqs", endpoint_url=self.aws.url)

    def put_image(self, key: str, data: bytes, **metadata: str) -> str:
        """Upload an image and return its `s3://` URI. `metadata` may set prompt, mode and duration."""
        content_type = "image/png" if data.startswith(b"\x89PNG") else "image/jpeg"
        self.s3().put_object(Bucket=self.bucket, Key=key, Body=data, ContentType=content_type, Metadata=metadata)
        return f"s3://{self.bucket}/{key}"

    def presign(self, uri: str, seconds: int = 3600) -> str:
        """Return a presigned GET URL of an `s3://` URI."""
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        return self.s3().generate_presigned_url("get_object", {"Bucket": bucket, "Key": key}, ExpiresIn=seconds)

    def keys(self, prefix: str = "") -> list[str]:
        """Return the bucket's keys, sorted."""
        pages = self.s3().get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        return [item["Key"] for page in pages for item in page.get("Contents", [])]

    def read(self, key: str) -> bytes:
        """Return an object's bytes."""
        return self.s3().get_object(Bucket=self.bucket, Key=key)["Body"].read()

    def read_json(self, key: str) -> Any:
        """Return an object parsed as JSON."""
        return json.loads(self.read(key))

    @property
    def env(self) -> dict[str, str]:
        """Every environment variable that i2v needs to use the sandbox."""
        scale = min(1.0, max(self.provider.options.render_seconds, 0.1) / VENDOR_RENDER_SECONDS)
        variables = {
            "APIXO_API_KEY": self.provider.options.api_key,
            "APIXO_BASE_URL": self.provider.base_url,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": self.aws.url,
            "AWS_EC2_METADATA_DISABLED": "true",
            "I2V_BUCKET": self.bucket,
            "I2V_PRIVATE_HOSTS": f"{self.provider.address},{self.aws.address}",
            "no_proxy": ",".join(filter(None, [getproxies().get("no"), "127.0.0.1", "localhost"])),
            "I2V_POLL_FIRST_SECONDS": f"{30 * scale:.3g}",
            "I2V_POLL_EVERY_SECONDS": f"{10 * scale:.3g}",
        }
        return variables | ({"I2V_SQS_QUEUE_URL": self.queue_url} if self.queue_url else {})


def _session() -> boto3.session.Session:
    return boto3.session.Session(ACCESS_KEY, SECRET_KEY, region_name=REGION)
