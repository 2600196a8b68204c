"""`AwsAccount`: the stack of `deployments/aws/template.yaml` in an S3 and SQS that enforce IAM policies."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, cached_property
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import boto3
import yaml
from ministack.core.iam_evaluator import (  # type: ignore[import-untyped]
    EvalContext,
    evaluate,
    parse_policy_document,
)
from starlette.responses import Response

from sandbox import Sandbox
from sandbox.aws import Aws
from sandbox.sandbox import ACCESS_KEY, REGION, SECRET_KEY
from tests.support.fault_proxy import FaultProxy, Headers, ProxiedRequest
from tests.support.paths import ROOT

TEMPLATE = ROOT / "deployments" / "aws" / "template.yaml"
BUCKET = "photos"
POLICIES = ("Worker", "Door", "Deploy")
_ACCESS_KEY = re.compile(r"Credential=([A-Za-z0-9]+)(?:/|%2F)")


class _Loader(yaml.SafeLoader):
    """Reads CloudFormation's tags as what follows them: `!Ref Bucket` as `Bucket`."""


def _untagged(loader: yaml.SafeLoader, _: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_scalar(node) if isinstance(node, yaml.ScalarNode) else None


_Loader.add_multi_constructor("!", _untagged)


@cache
def read_template() -> dict[str, Any]:
    """Return the template without CloudFormation's tags."""
    return dict(yaml.load(TEMPLATE.read_text(), _Loader))  # noqa: S506 - a SafeLoader


class Right(NamedTuple):
    """An action that a statement of a policy allows on one of its resources."""

    policy: str
    sid: str
    action: str
    number: int
    """Of the resource."""

    def __str__(self) -> str:
        return f"{self.policy}-{self.sid}-{self.action.partition(':')[2]}-{self.number}"


def rights() -> list[Right]:
    """Return every right that the template grants."""
    policies = {
        name: read_template()["Resources"][f"{name}Policy"]["Properties"]["PolicyDocument"] for name in POLICIES
    }
    return [
        Right(name, statement["Sid"], action, number)
        for name, policy in policies.items()
        for statement in policy["Statement"]
        for action in as_list(statement["Action"])
        for number in range(len(as_list(statement["Resource"])))
    ]


class EnforcingAws(Aws):
    """A ministack that evaluates IAM policies. The sandbox's own key is root's, which may do everything."""

    def environment(self, scratch: Path) -> dict[str, str]:
        """Start what the template needs too."""
        services = "s3,sqs,sts,iam,kms,sns,cloudwatch,monitoring,cloudformation"
        return super().environment(scratch) | {"SERVICES": services, "AUTH": "true"}


class S3Rights(FaultProxy):
    """A proxy in front of ministack that denies what Amazon S3 denies and ministack does not.

    That is: the rights to key and tags, and 403 instead of 404 for a missing object without the right to list.
    """

    def __init__(self, upstream: str, key_arn: str) -> None:
        super().__init__(upstream)
        self._key_arn = key_arn
        self.policies: dict[str, dict[str, Any]] = {}
        """The policy of each access key; other keys may do everything."""

    async def _forward(self, request: ProxiedRequest, headers: Headers) -> Response | None:
        known = {name.decode(): value.decode() for name, value in headers}
        found = _ACCESS_KEY.search(known.get("authorization", "") or request.target)
        policy = self.policies.get(found[1]) if found else None
        path = unquote(urlsplit(request.target).path).lstrip("/")
        if policy is None or not path.partition("/")[2]:
            return await super()._forward(request, headers)
        for action, resource in self._needed(request.method, path, known):
            if not is_allowed(policy, action, resource):
                return _denied(request, action)
        response = await super()._forward(request, headers)
        if response and response.status_code == HTTPStatus.NOT_FOUND:
            action, bucket = "s3:ListBucket", path.partition("/")[0]
            return response if is_allowed(policy, action, f"arn:aws:s3:::{bucket}") else _denied(request, action)
        return response

    def _needed(self, method: str, path: str, headers: dict[str, str]) -> Iterator[tuple[str, str]]:
        """Yield the rights that S3 checks beside that of the operation itself, as if each object had tags."""
        source = unquote(headers.get("x-amz-copy-source", "")).lstrip("/")
        if method == "GET" or source:
            yield "kms:Decrypt", self._key_arn
        if method == "PUT":
            yield "kms:GenerateDataKey", self._key_arn
        copies_tags = source and headers.get("x-amz-tagging-directive") != "REPLACE"
        if copies_tags:
            yield "s3:GetObjectTagging", f"arn:aws:s3:::{source}"
        if copies_tags or "x-amz-tagging" in headers:
            yield "s3:PutObjectTagging", f"arn:aws:s3:::{path}"


def _denied(request: ProxiedRequest, action: str) -> Response:
    message = f"User: i2v is not authorized to perform: {action} because no identity-based policy allows it"
    text = f"<Error><Code>AccessDenied</Code><Message>{message}</Message></Error>"
    return Response("" if request.method == "HEAD" else text, 403, media_type="application/xml")


def is_allowed(policy: dict[str, Any], action: str, resource: str) -> bool:
    """Whether a policy allows an action, for a request that comes through S3 in the sandbox's region."""
    context = {"kms:viaservice": f"s3.{REGION}.amazonaws.com"}
    account = "000000000000"
    request = EvalContext("user", "User", account, action, resource, REGION, service_context=context)
    return bool(evaluate(request, [parse_policy_document(policy)]).decision == "Allow")


class AwsAccount:
    """The stack in an account that enforces policies, and the provider emulator that fetches from its bucket."""

    def __init__(self, sandbox: Sandbox, proxy: S3Rights, outputs: dict[str, str]) -> None:
        self.sandbox = sandbox
        self.outputs = outputs
        self._proxy = proxy
        self._users = 0

    def policy(self, name: str) -> dict[str, Any]:
        """Return a policy of the stack (`Worker`, `Door`, `Deploy`) with the names of its resources filled in."""
        arn = self.outputs[f"{name}PolicyArn"]
        version = self._iam.get_policy_version(PolicyArn=arn, VersionId="v1")
        return dict(version["PolicyVersion"]["Document"])

    @cached_property
    def _iam(self) -> Any:
        return client("iam", self.sandbox.aws.url)

    def environment(self, policy: dict[str, Any]) -> dict[str, str]:
        """Return the settings of a new user that has this policy alone."""
        self._users += 1
        user = f"user-{self._users}"
        self._iam.create_user(UserName=user)
        document = json.dumps(_with_batches(policy))
        self._iam.put_user_policy(UserName=user, PolicyName="i2v", PolicyDocument=document)
        key = self._iam.create_access_key(UserName=user)["AccessKey"]
        self._proxy.policies[key["AccessKeyId"]] = policy
        return self.sandbox.env | {
            "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
            "AWS_ENDPOINT_URL": self._proxy.url,
            "I2V_PRIVATE_HOSTS": f"{self.sandbox.env['I2V_PRIVATE_HOSTS']},{self._proxy.address}",
        }


def _with_batches(policy: dict[str, Any]) -> dict[str, Any]:
    """Return the policy with what SQS includes in an action and ministack does not: `DeleteMessageBatch`."""
    batches = {
        f"sqs:{name}": [f"sqs:{name}", f"sqs:{name}Batch"] for name in ("DeleteMessage", "ChangeMessageVisibility")
    }
    statements = [
        each | {"Action": [name for action in as_list(each["Action"]) for name in batches.get(action, [action])]}
        for each in policy["Statement"]
    ]
    return policy | {"Statement": statements}


def without(policy: dict[str, Any], right: Right) -> dict[str, Any]:
    """Return the policy without one right."""
    statements: list[dict[str, Any]] = []
    for statement in policy["Statement"]:
        if statement["Sid"] != right.sid:
            statements.append(statement)
            continue
        actions, resources = as_list(statement["Action"]), as_list(statement["Resource"])
        others = [action for action in actions if action != right.action]
        rest = [resource for number, resource in enumerate(resources) if number != right.number]
        statements += [statement | {"Action": others}] if others else []
        statements += [statement | {"Sid": "Rest", "Action": right.action, "Resource": rest}] if rest else []
    return policy | {"Statement": statements}


def as_list(value: Any) -> list[str]:
    """Return what is one string or a list of them as a list."""
    return [value] if isinstance(value, str) else list(value)


def client(service: str, url: str) -> Any:
    """Return root's boto3 client."""
    session: Any = boto3.session.Session(ACCESS_KEY, SECRET_KEY, region_name=REGION)
    return session.client(service, endpoint_url=url)


def create_stack(url: str) -> dict[str, str]:
    """Create the stack and return its outputs."""
    cloudformation = client("cloudformation", url)
    parameters = [{"ParameterKey": "BucketName", "ParameterValue": BUCKET}]
    body, rights = TEMPLATE.read_text(), ["CAPABILITY_IAM"]
    cloudformation.create_stack(StackName="i2v", TemplateBody=body, Parameters=parameters, Capabilities=rights)
    cloudformation.get_waiter("stack_create_complete").wait(StackName="i2v", WaiterConfig={"Delay": 1})
    return stack_outputs(url)


def stack_outputs(url: str) -> dict[str, str]:
    """Return the outputs of the stack."""
    (stack,) = client("cloudformation", url).describe_stacks(StackName="i2v")["Stacks"]
    return {each["OutputKey"]: each["OutputValue"] for each in stack["Outputs"]}


@contextmanager
def aws_account(sandbox: Sandbox) -> Iterator[AwsAccount]:
    """Start a sandbox that is not running yet with policies enforced, and create the stack in it."""
    sandbox.aws = EnforcingAws()
    with sandbox:
        outputs = create_stack(sandbox.aws.url)
        sandbox.bucket, sandbox.queue_url = outputs["BucketName"], outputs["QueueUrl"]
        sandbox.queue_url = sandbox.aws.url + urlsplit(outputs["QueueUrl"]).path
        sandbox.s3().delete_bucket_policy(Bucket=BUCKET)  # it demands TLS, which the sandbox has not
        with S3Rights(sandbox.aws.address, outputs["KeyArn"]) as proxy:
            sandbox.provider.set_options(s3_address=proxy.address)
            yield AwsAccount(sandbox, proxy, outputs)
