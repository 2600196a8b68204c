"""The doctor finds what is wrong outside, says what to do, costs nothing and leaves nothing behind."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import boto3
import pytest

from i2v.doctor import Finding, Level, examine, takes_away
from i2v.ledger.ledger import Ledger
from i2v.s3.client import s3_client
from i2v.s3.storage import Storage, Written
from i2v.s3_uri import S3Uri
from i2v.settings import Settings
from sandbox import Sandbox
from sandbox.fault_proxy import FaultProxy, FaultRule
from tests.support.i2v_command import bare_env, i2v
from tests.support.settings import MakeSettings

JOBS = S3Uri("b", "jobs/")


async def found(settings: Settings, storage: Storage) -> dict[str, Finding]:
    """The findings by their checks."""
    return {finding.check: finding for finding in await examine(settings, storage)}


@pytest.fixture
def storage(sandbox: Sandbox) -> Iterator[Storage]:
    """The sandbox's S3."""
    with Storage(sandbox.s3()) as storage:
        yield storage


@contextmanager
def refusing(sandbox: Sandbox, *rules: FaultRule) -> Iterator[Storage]:
    """The sandbox's S3 behind a proxy that refuses some requests."""
    with FaultProxy(sandbox.aws.address) as proxy:
        for rule in rules:
            proxy.add(rule)
        session = boto3.Session("test", "test", region_name="us-east-1")
        client = session.client("s3", endpoint_url=proxy.url, config=s3_client(session).meta.config)
        with Storage(client) as storage:
            yield storage


class Careless(Storage):
    """A server that ignores conditions, as some do."""

    async def put(
        self,
        uri: S3Uri,
        body: bytes,
        *,
        content_type: str = "application/octet-stream",
        metadata: Mapping[str, str] | None = None,
        create: bool = False,
        if_match: str | None = None,
        sha256: bytes | None = None,
    ) -> Written:
        """Put whatever is there."""
        del create, if_match, sha256
        return await super().put(uri, body, content_type=content_type, metadata=metadata)


async def test_a_sound_world_has_no_fault_and_keeps_no_trace(
    sandbox: Sandbox, settings: Settings, storage: Storage
) -> None:
    """Every check is ok, nothing is billed, and the bucket is as empty as before."""
    findings = await found(settings, storage)
    assert {Level.OK} == {finding.level for finding in findings.values()}, findings
    assert len(findings) == 12
    assert (sandbox.keys(), sum(sandbox.provider.billed().values())) == ([], 0)


async def test_a_wrong_key_is_a_fault_and_the_rest_is_examined(
    sandbox: Sandbox, make_settings: MakeSettings, storage: Storage
) -> None:
    """One fault hides no other, and the key itself is not shown."""
    findings = await found(make_settings(**{**sandbox.env, "APIXO_API_KEY": "sk-wrong"}), storage)
    assert (findings["key"].level, findings["conditional writes"].level) == (Level.FAULT, Level.OK)
    assert "sk-wrong" not in str(findings)


async def test_a_balance_that_buys_nothing_is_a_warning(sandbox: Sandbox, settings: Settings, storage: Storage) -> None:
    """Somebody adds balance before the run."""
    sandbox.provider.set_options(balance_usd="0.1")
    finding = (await found(settings, storage))["key"]
    assert (Level.WARNING, "add balance" in finding.hint) == (finding.level, True)


async def test_a_bucket_that_is_not_there_is_named(
    sandbox: Sandbox, make_settings: MakeSettings, storage: Storage
) -> None:
    """The likeliest mistake is said in words."""
    findings = await found(make_settings(**{**sandbox.env, "I2V_BUCKET": "not-there"}), storage)
    assert findings["bucket"] == Finding(
        "bucket", Level.FAULT, "the bucket not-there does not exist", "Check I2V_BUCKET and the region"
    )


async def test_a_right_that_runs_need_is_a_fault(sandbox: Sandbox, settings: Settings) -> None:
    """Who may not write the ledger learns which right is missing where."""
    with refusing(
        sandbox, FaultRule("fail", "PUT", "/jobs/doctor/", status=403, code="AccessDenied", times=None)
    ) as storage:
        finding = (await found(settings, storage))["rights jobs"]
    assert (finding.level, finding.hint) == (Level.FAULT, "Grant the credentials put there")


async def test_a_right_that_runs_can_do_without_is_a_warning(sandbox: Sandbox, settings: Settings) -> None:
    """Images may lie where i2v may only read."""
    with refusing(
        sandbox, FaultRule("fail", "PUT", "/images/", status=403, code="AccessDenied", times=None)
    ) as storage:
        assert (await found(settings, storage))["rights images"].level is Level.WARNING


async def test_a_server_that_ignores_conditions_is_a_fault(sandbox: Sandbox, settings: Settings) -> None:
    """The ledger would rest on nothing there."""
    with Careless(sandbox.s3()) as storage:
        finding = (await found(settings, storage))["conditional writes"]
    assert (finding.level, finding.message) == (Level.FAULT, "the S3 server ignores IfNoneMatch")
    assert sandbox.keys() == []


async def test_a_presigned_url_that_gives_other_bytes_is_a_fault(sandbox: Sandbox, settings: Settings) -> None:
    """The provider would see something else than was checked."""
    with refusing(
        sandbox, FaultRule("fail", "GET", "X-Amz-Signature", status=403, code="AccessDenied", times=None)
    ) as storage:
        assert (await found(settings, storage))["presigned URL"].level is Level.FAULT


async def test_a_private_s3_under_a_public_provider_is_a_warning(
    sandbox: Sandbox, make_settings: MakeSettings, storage: Storage
) -> None:
    """The provider fetches images from the internet, where nobody reaches this machine."""
    public = make_settings(**{**sandbox.env, "APIXO_BASE_URL": "https://1.1.1.1/api/v1", "APIXO_API_KEY": ""})
    finding = (await found(public, storage))["presigned URL"]
    assert (Level.WARNING, "private address" in finding.message) == (finding.level, True)


async def test_another_accounts_ledger_is_a_fault(
    sandbox: Sandbox, make_settings: MakeSettings, settings: Settings, storage: Storage
) -> None:
    """A sandbox's ledger is not taken under a real key."""
    await Ledger(storage, settings).prepare()
    other = make_settings(**{**sandbox.env, "I2V_ACCOUNT_LABEL": "other"})
    assert (await found(other, storage))["ledger"].level is Level.FAULT


async def test_a_paused_ledger_is_a_warning(settings: Settings, storage: Storage) -> None:
    """Who wonders why nothing is submitted finds it here."""
    await Ledger(storage, settings).set_paused(True)
    finding = (await found(settings, storage))["ledger"]
    assert (finding.level, finding.hint) == (Level.WARNING, "Go on with: i2v resume")


async def test_a_rule_over_the_ledger_is_a_fault(sandbox: Sandbox, settings: Settings, storage: Storage) -> None:
    """Expired records would be paid again."""
    rule: Any = {"ID": "tidy", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 30}}
    sandbox.s3().put_bucket_lifecycle_configuration(Bucket=sandbox.bucket, LifecycleConfiguration={"Rules": [rule]})
    finding = (await found(settings, storage))["lifecycle"]
    assert (Level.FAULT, "'tidy'" in finding.message) == (finding.level, True)


EXPIRES = {"Status": "Enabled", "Bucket": "b", "Expiration": {"Days": 1}}


@pytest.mark.parametrize(
    ("rule", "taken"),
    [
        ({"Filter": {"Prefix": ""}}, True),
        ({"Prefix": "jobs/"}, True),
        ({"Prefix": "jobs/a"}, True),
        ({"Filter": {"And": {"Prefix": "jo"}}}, True),
        ({"Expiration": {}, "Transitions": [{"Days": 1, "StorageClass": "GLACIER"}]}, True),
        ({"Expiration": {}, "Transitions": [{"Days": 1, "StorageClass": "STANDARD_IA"}]}, False),
        ({"Expiration": {"ExpiredObjectDeleteMarker": True}}, False),
        ({"Status": "Disabled"}, False),
        ({"Bucket": "other"}, False),
        ({"Filter": {"Prefix": "videos/"}}, False),
        ({"Filter": {"Prefix": "jobs/inputs/"}}, False),
        ({"Filter": {"Tag": {"Key": "temporary", "Value": "1"}}}, False),
        ({"Filter": {"And": {"Prefix": "", "Tags": [{"Key": "temporary", "Value": "1"}]}}}, False),
    ],
)
def test_a_rule_is_judged_by_what_it_reaches(rule: dict[str, Any], taken: bool) -> None:
    """Rules that pass the ledger by raise no alarm, and no others do."""
    assert takes_away({**EXPIRES, **rule}, JOBS) is taken


def test_the_command_exits_0_where_all_is_well(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A script can ask whether all is well."""
    home = str(tmp_path_factory.mktemp("home"))
    said = i2v("doctor", "--json", env=bare_env(**sandbox.env, PREFECT_HOME=home))
    checks = json.loads(said.out)
    assert (said.code, checks["ok"], checks["checks"][-1]["check"]) == (0, True, "prefect")


def test_the_command_exits_1_at_a_fault(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Without any setting it says which are missing, and still looks at what it can."""
    said = i2v("doctor", env=bare_env(PREFECT_HOME=str(tmp_path_factory.mktemp("home"))))
    assert said.code == 1
    assert [line.split()[:2] for line in said.out.splitlines()[::2]] == [
        ["fault", "key"],
        ["fault", "bucket"],
        ["ok", "callbacks"],
    ]
    assert said.out.splitlines()[-1].split()[:2] == ["ok", "prefect"]
