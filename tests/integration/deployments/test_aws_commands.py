"""The `aws` commands of the pages, in the real AWS CLI, which `make test-deployments` installs, on an emulator."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox.aws import Aws
from sandbox.sandbox import ACCESS_KEY, REGION, SECRET_KEY
from tests.support.aws_account import POLICIES, client, stack_outputs
from tests.support.documents import code_blocks
from tests.support.paths import ROOT

PRODUCTION, AWS_PAGE = "docs/production.md", "docs/aws.md"
BUCKET = "my-bucket"
"""The name in the pages."""
pytestmark = pytest.mark.skipif(not os.environ.get("TEST_DEPLOYMENTS"), reason="make test-deployments runs it")


class WholeAws(Aws):
    """A ministack with every service that the pages use."""

    def environment(self, scratch: Path) -> dict[str, str]:
        """Start more than S3 and SQS."""
        services = "s3,sqs,sts,iam,kms,sns,ec2,cloudwatch,monitoring,cloudformation,secretsmanager"
        return super().environment(scratch) | {"SERVICES": services}


@pytest.fixture(scope="module")
def account(no_outside: None) -> Iterator[Aws]:
    """An empty account."""
    with WholeAws() as aws:
        yield aws


def _blocks(page: str) -> list[str]:
    return [block.text for block in code_blocks("sh") if block.page == page and "aws " in block.text]


def _type(script: str, account: Aws, folder: Path, **variables: str) -> str:
    """Run lines as in a user's shell in the project's root, which `folder` stands for, and return their output."""
    own = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_DEFAULT_REGION": REGION}
    environment = os.environ | own | {"AWS_ENDPOINT_URL": account.url} | variables
    command = ["/bin/sh", "-euc", script]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)  # noqa: S603 - the pages' own lines
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_commands_create_everything_that_a_machine_needs(account: Aws, tmp_path: Path) -> None:
    """Stack, role and machine are created, and the role of the machine has the three policies of the stack alone."""
    (tmp_path / "deployments").symlink_to(ROOT / "deployments")
    (tmp_path / "tom.jpg").write_bytes(b"an image")
    blocks = [text for text in _blocks(PRODUCTION) if "DeleteMarkers" not in text]
    assert len(blocks) == 4

    _type("\n".join(blocks), account, tmp_path)

    outputs, iam, ec2 = stack_outputs(account.url), client("iam", account.url), client("ec2", account.url)
    attached = iam.list_attached_role_policies(RoleName="i2v")["AttachedPolicies"]
    assert {each["PolicyArn"] for each in attached} == {outputs[f"{name}PolicyArn"] for name in POLICIES}
    (machine,) = [each for group in ec2.describe_instances()["Reservations"] for each in group["Instances"]]
    assert machine["IamInstanceProfile"]["Arn"].endswith("/i2v")
    (group,) = ec2.describe_security_groups(GroupIds=[machine["SecurityGroups"][0]["GroupId"]])["SecurityGroups"]
    assert [rule["FromPort"] for rule in group["IpPermissions"]] == [22]
    assert client("s3", account.url).head_object(Bucket=BUCKET, Key="images/tom.jpg")
    assert (tmp_path / "i2v.pem").stat().st_mode & 0o077 == 0


def test_a_deleted_ledger_is_restored_to_its_newest_state(account: Aws, tmp_path: Path) -> None:
    """After the page's command each deleted record is back as it was last, and no other object has changed."""
    s3 = client("s3", account.url)
    s3.create_bucket(Bucket="ledger")
    s3.put_bucket_versioning(Bucket="ledger", VersioningConfiguration={"Status": "Enabled"})
    keys = [f"jobs/{name}.json" for name in ("a", "b", "open/c", "days/d")]
    for text in (b"old", b"new"):
        for key in [*keys, "videos/e.json"]:
            s3.put_object(Bucket="ledger", Key=key, Body=text)
    for key in [*keys[1:], "videos/e.json"]:
        s3.delete_object(Bucket="ledger", Key=key)
    (block,) = [text for text in _blocks(PRODUCTION) if "DeleteMarkers" in text]

    _type(block.replace(BUCKET, "ledger"), account, tmp_path)

    left = s3.list_objects_v2(Bucket="ledger")["Contents"]
    assert {each["Key"]: _body(s3, each["Key"]) for each in left} == dict.fromkeys(keys, b"new")


def _body(s3: Any, key: str) -> bytes:
    return bytes(s3.get_object(Bucket="ledger", Key=key)["Body"].read())


def test_the_commands_of_the_page_about_aws_work(account: Aws, tmp_path: Path) -> None:
    """The commands beside the stack's are valid, and the secret of ECS holds both names that its template reads."""
    blocks = [text for text in _blocks(AWS_PAGE) if "cloudformation" not in text]
    lines = "\n".join(blocks).replace(".venv/bin/prefect", "true")

    _type(lines, account, tmp_path, APIXO_API_KEY="key", WORKER_POLICY_ARN="arn:aws:iam::aws:policy/ReadOnlyAccess")

    secret = client("secretsmanager", account.url).get_secret_value(SecretId="i2v")["SecretString"]
    template = (ROOT / "deployments" / "ecs" / "base-job-template.json").read_text()
    assert json.loads(secret)["APIXO_API_KEY"] == "key"
    assert all(f":{name}::" in template for name in json.loads(secret))
