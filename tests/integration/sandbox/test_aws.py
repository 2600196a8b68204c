"""S3 and SQS of the sandbox, and what tests can rely on."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import httpx
import pytest

from i2v.settings import Settings
from sandbox import Sandbox
from tests.support.paths import ROOT


def test_each_test_has_an_empty_bucket(sandbox: Sandbox) -> None:
    """After a reset the bucket is new and empty, and the older one is unchanged."""
    old = sandbox.bucket
    sandbox.put_image("images/a.jpg", b"x", prompt="p")
    assert sandbox.keys() == ["images/a.jpg"]
    sandbox.reset()
    assert sandbox.bucket != old
    assert sandbox.keys() == []
    assert sandbox.s3().head_object(Bucket=old, Key="images/a.jpg")["Metadata"] == {"prompt": "p"}


def test_settings_come_from_the_sandbox_alone(
    sandbox: Sandbox, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The settings of a test name the sandbox's bucket and hosts, whatever the environment contains."""
    monkeypatch.setenv("I2V_DEFAULT_PROMPT", "from outside")
    assert settings.bucket == sandbox.bucket
    assert settings.base_url == sandbox.provider.base_url
    assert settings.private_hosts == {sandbox.provider.address, sandbox.aws.address}
    assert settings.default_prompt is None


def test_notifications_reach_the_queue() -> None:
    """With notifications, the queue receives each new object; with versioning, objects have versions."""
    with Sandbox(notifications=True, versioning=True) as sandbox:
        assert sandbox.s3().put_object(Bucket=sandbox.bucket, Key="images/a b.jpg", Body=b"x")["VersionId"]
        assert sandbox.queue_url is not None
        answer = sandbox.sqs().receive_message(QueueUrl=sandbox.queue_url, WaitTimeSeconds=5, MaxNumberOfMessages=10)
        keys = [
            record["s3"]["object"]["key"]
            for message in answer["Messages"]
            for record in json.loads(message["Body"]).get("Records", [])
        ]
        assert keys == ["images/a+b.jpg"]


def test_servers_end_with_the_process_that_started_them() -> None:
    """S3 stops even when its owner is killed."""
    code = "import time; from sandbox import Sandbox; print(Sandbox().__enter__().aws.url, flush=True); time.sleep(60)"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as owner:  # noqa: S603 - our own
        assert owner.stdout is not None
        url = owner.stdout.readline().strip()
        assert httpx.get(f"{url}/_ministack/health", trust_env=False).is_success
        owner.kill()
    for _ in range(100):
        try:
            httpx.get(f"{url}/_ministack/health", trust_env=False)
        except httpx.TransportError:
            return
        time.sleep(0.05)
    pytest.fail("S3 outlived its owner")
