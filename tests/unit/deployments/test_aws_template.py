"""`deployments/aws/template.yaml`: what its policies and rules must never do."""

from __future__ import annotations

from typing import Any

import pytest

from i2v.doctor.bucket import is_removed_by
from i2v.s3_uri import S3Uri
from tests.support.aws_account import POLICIES, as_list, read_template, rights

RESOURCES: dict[str, Any] = read_template()["Resources"]
BUCKET: dict[str, Any] = RESOURCES["Bucket"]["Properties"]
PARAMETERS = {name: str(each.get("Default", "")) for name, each in read_template()["Parameters"].items()}


def _statements(policy: str) -> list[dict[str, Any]]:
    return list(RESOURCES[f"{policy}Policy"]["Properties"]["PolicyDocument"]["Statement"])


def test_no_lifecycle_rule_matches_the_ledger() -> None:
    """Each rule has a prefix of images or videos, and none expires or archives a current version."""
    rules = BUCKET["LifecycleConfiguration"]["Rules"]

    assert {rule["Prefix"] for rule in rules} == {"ImagesPrefix", "VideosPrefix"}
    for rule in rules:
        assert not rule.keys() & {"ExpirationInDays", "ExpirationDate", "Transitions", "Transition"}
        named = rule | {"Prefix": PARAMETERS[rule["Prefix"]], "Bucket": "b"}
        assert not is_removed_by(named, S3Uri("b", PARAMETERS["JobsPrefix"]))


def test_the_bucket_keeps_versions_and_is_private_and_encrypted() -> None:
    """A mistaken delete can be undone, nobody else reads the bucket, and deleting the stack keeps bucket and key."""
    assert BUCKET["VersioningConfiguration"] == {"Status": "Enabled"}
    assert set(BUCKET["PublicAccessBlockConfiguration"].values()) == {True}
    (encryption,) = BUCKET["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert encryption["ServerSideEncryptionByDefault"] == {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": "Key.Arn"}
    for name in ("Bucket", "Key"):
        assert (RESOURCES[name]["DeletionPolicy"], RESOURCES[name]["UpdateReplacePolicy"]) == ("Retain", "Retain")


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_names_actions_and_resources(policy: str) -> None:
    """No policy has a wildcard in an action, or a resource outside the stack."""
    for statement in _statements(policy):
        assert statement["Effect"] == "Allow"
        assert not any("*" in action for action in as_list(statement["Action"]))
        assert all(
            resource.startswith(("${Bucket.Arn}/", "Bucket", "Key", "Queue", "DeadLetterQueue"))
            for resource in as_list(statement["Resource"])
        )


def test_no_policy_removes_what_was_paid() -> None:
    """No process can delete a video, a record of the ledger or an old version."""
    deletes = [right for right in rights() if right.action == "s3:DeleteObject"]
    statements = {
        (policy, each["Sid"]): as_list(each["Resource"]) for policy in POLICIES for each in _statements(policy)
    }
    deletable = {statements[right.policy, right.sid][right.number].removeprefix("${Bucket.Arn}/") for right in deletes}

    assert deletable == {
        "${ImagesPrefix}doctor/*",
        "${VideosPrefix}doctor/*",
        "${VideosPrefix}*.refused.json",
        "${VideosPrefix}*.failed.json",
        "${JobsPrefix}doctor/*",
        "${JobsPrefix}open/*",
        "${JobsPrefix}forgotten/*",
    }
    assert {right.action for right in rights() if "Delete" in right.action} == {"s3:DeleteObject", "sqs:DeleteMessage"}


def test_each_alarm_says_what_to_do() -> None:
    """An alarm reaches the topic, and its text names the next step."""
    alarms = [each["Properties"] for each in RESOURCES.values() if each["Type"] == "AWS::CloudWatch::Alarm"]
    assert len(alarms) == 2

    for alarm in alarms:
        assert alarm["AlarmActions"] == ["AlarmTopic"]
        assert "i2v reconcile --generate" in alarm["AlarmDescription"] or "/healthz" in alarm["AlarmDescription"]
