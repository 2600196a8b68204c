"""`i2v doctor` finds what is wrong outside and says what to do; it is free and leaves nothing behind."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest

from i2v.doctor.bucket import is_removed_by
from i2v.doctor.checks import check_key, check_prompts, examine
from i2v.doctor.findings import Finding, Level, run_check
from i2v.ledger.ledger import Ledger
from i2v.s3.client import s3_client
from i2v.s3.etags import EtagForm
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri
from i2v.settings import Settings
from sandbox import Sandbox
from tests.support.certificate_authority import own_authority
from tests.support.fault_proxy import FaultProxy, FaultRule
from tests.support.i2v_command import bare_env, i2v
from tests.support.raw_server import running, send_json
from tests.support.settings import MakeSettings

JOBS = S3Uri("b", "jobs/")
DOOR = {"I2V_DOOR_TOKEN": "a-token-of-the-test"}


async def findings_of(settings: Settings, storage: Storage) -> dict[str, Finding]:
    """The findings by name of check."""
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


class UnconditionalStorage(Storage):
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
        etag_form: EtagForm | None = None,
    ) -> str:
        """Put without a condition."""
        del create, if_match, etag_form
        return await super().put(uri, body, content_type=content_type, metadata=metadata)


async def test_a_working_setup_has_no_fault_and_is_left_clean(
    sandbox: Sandbox, settings: Settings, storage: Storage
) -> None:
    """Every check is ok, nothing is billed, and the bucket is as empty as before."""
    findings = await findings_of(settings, storage)
    assert {Level.OK} == {finding.level for finding in findings.values()}, findings
    assert len(findings) == 14
    assert (sandbox.keys(), sum(sandbox.provider.billed().values())) == ([], 0)


async def test_a_wrong_key_is_a_fault_and_the_other_checks_run(
    sandbox: Sandbox, make_settings: MakeSettings, storage: Storage
) -> None:
    """One fault does not stop the other checks, and the key is not shown."""
    findings = await findings_of(make_settings(**{**sandbox.env, "APIXO_API_KEY": "sk-wrong"}), storage)
    assert (findings["key"].level, findings["conditional writes"].level) == (Level.FAULT, Level.OK)
    assert "sk-wrong" not in str(findings)


async def test_a_balance_below_the_cheapest_video_is_a_warning(
    sandbox: Sandbox, settings: Settings, storage: Storage
) -> None:
    """The hint says to add balance."""
    sandbox.provider.set_options(balance_usd="0.1")
    finding = (await findings_of(settings, storage))["key"]
    assert (Level.WARNING, "add balance" in finding.hint) == (finding.level, True)


async def test_a_missing_bucket_is_named(sandbox: Sandbox, make_settings: MakeSettings, storage: Storage) -> None:
    """The finding names the bucket and the setting."""
    findings = await findings_of(make_settings(**{**sandbox.env, "I2V_BUCKET": "not-there"}), storage)
    assert findings["bucket"] == Finding(
        "bucket", Level.FAULT, "the bucket not-there does not exist", "Check I2V_BUCKET and the region"
    )


async def test_a_missing_permission_that_runs_need_is_a_fault(sandbox: Sandbox, settings: Settings) -> None:
    """The hint says which permission is missing under which prefix."""
    with refusing(
        sandbox, FaultRule("fail", "PUT", "/jobs/doctor/", status=403, code="AccessDenied", times=None)
    ) as storage:
        finding = (await findings_of(settings, storage))["rights jobs"]
    assert (finding.level, finding.hint) == (Level.FAULT, "Grant the credentials permission to put there")


async def test_a_missing_permission_that_runs_do_not_need_is_a_warning(sandbox: Sandbox, settings: Settings) -> None:
    """Read access to the images is enough for a run."""
    with refusing(
        sandbox, FaultRule("fail", "PUT", "/images/", status=403, code="AccessDenied", times=None)
    ) as storage:
        assert (await findings_of(settings, storage))["rights images"].level is Level.WARNING


async def test_the_folder_of_published_names_is_checked(
    sandbox: Sandbox, make_settings: MakeSettings, storage: Storage
) -> None:
    """Its permissions count, and a folder where names would become inputs or outputs is a fault."""
    good = await findings_of(make_settings(**sandbox.env, I2V_PUBLISH_AS="published/{stem}.mp4"), storage)
    bad = await findings_of(make_settings(**sandbox.env, I2V_PUBLISH_AS="images/{stem}.mp4"), storage)
    assert good["rights published"].level is Level.OK
    assert bad["bucket"].level is Level.FAULT
    assert f"I2V_PUBLISH_AS=s3://{sandbox.bucket}/images/ is inside I2V_IMAGES_PREFIX" in bad["bucket"].message
    with refusing(
        sandbox, FaultRule("fail", "PUT", "/published/", status=403, code="AccessDenied", times=None)
    ) as refused:
        settings = make_settings(**sandbox.env, I2V_PUBLISH_AS="published/{stem}.mp4")
        assert (await findings_of(settings, refused))["rights published"].level is Level.FAULT


async def test_a_server_that_ignores_conditions_is_a_fault(sandbox: Sandbox, settings: Settings) -> None:
    """The ledger relies on conditional writes."""
    with UnconditionalStorage(sandbox.s3()) as storage:
        finding = (await findings_of(settings, storage))["conditional writes"]
    assert (finding.level, finding.message) == (Level.FAULT, "The S3 server ignores conditional writes (IfNoneMatch)")
    assert sandbox.keys() == []


async def test_a_presigned_url_that_does_not_work_is_a_fault(sandbox: Sandbox, settings: Settings) -> None:
    """The provider could not fetch the image."""
    with refusing(
        sandbox, FaultRule("fail", "GET", "X-Amz-Signature", status=403, code="AccessDenied", times=None)
    ) as storage:
        assert (await findings_of(settings, storage))["presigned URL"].level is Level.FAULT


async def test_a_private_s3_with_a_public_provider_is_a_warning(
    sandbox: Sandbox, make_settings: MakeSettings, storage: Storage
) -> None:
    """The provider fetches images over the internet and cannot reach a private address."""
    public = make_settings(**{**sandbox.env, "APIXO_BASE_URL": "https://1.1.1.1/api/v1", "APIXO_API_KEY": ""})
    finding = (await findings_of(public, storage))["presigned URL"]
    assert (Level.WARNING, "private address" in finding.message) == (finding.level, True)


async def test_another_accounts_ledger_is_a_fault(
    sandbox: Sandbox, make_settings: MakeSettings, settings: Settings, storage: Storage
) -> None:
    """A ledger of another account is not used."""
    await Ledger(storage, settings).info.prepare()
    other = make_settings(**{**sandbox.env, "I2V_ACCOUNT_LABEL": "other"})
    assert (await findings_of(other, storage))["ledger"].level is Level.FAULT


async def test_a_paused_ledger_is_a_warning(settings: Settings, storage: Storage) -> None:
    """The hint says how to resume."""
    await Ledger(storage, settings).info.set_paused(True)
    finding = (await findings_of(settings, storage))["ledger"]
    assert (finding.level, finding.hint) == (Level.WARNING, "Resume them with: i2v resume")


async def test_a_lifecycle_rule_over_the_ledger_is_a_fault(
    sandbox: Sandbox, settings: Settings, storage: Storage
) -> None:
    """The finding names the rule."""
    rule: Any = {"ID": "tidy", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 30}}
    sandbox.s3().put_bucket_lifecycle_configuration(Bucket=sandbox.bucket, LifecycleConfiguration={"Rules": [rule]})
    finding = (await findings_of(settings, storage))["lifecycle"]
    assert (Level.FAULT, "'tidy'" in finding.message) == (finding.level, True)


EXPIRES = {"Status": "Enabled", "Bucket": "b", "Expiration": {"Days": 1}}


@pytest.mark.parametrize(
    ("rule", "is_removed"),
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
def test_a_rule_counts_if_it_covers_ledger_objects(rule: dict[str, Any], is_removed: bool) -> None:
    """Only enabled rules that expire or archive objects under the prefix count."""
    assert is_removed_by({**EXPIRES, **rule}, JOBS) is is_removed


def test_the_command_exits_0_without_faults(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> None:
    """`--json` reports ok, and every check."""
    home = str(tmp_path_factory.mktemp("home"))
    said = i2v("doctor", "--json", env=bare_env(**sandbox.env, PREFECT_HOME=home))
    checks = json.loads(said.out)
    assert (said.code, checks["ok"], checks["checks"][-1]["check"]) == (0, True, "prefect")


def test_the_command_exits_1_at_a_fault(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Without settings, it names the missing ones and runs the checks that do not need them."""
    said = i2v("doctor", env=bare_env(PREFECT_HOME=str(tmp_path_factory.mktemp("home"))))
    assert said.code == 1
    assert [line.split()[:2] for line in said.out.splitlines() if not line.startswith(" ")] == [
        ["fault", "key"],
        ["fault", "bucket"],
        ["ok", "prompts"],
        ["ok", "callbacks"],
        ["ok", "prefect"],
    ]
    assert said.out.splitlines()[-1].split()[:2] == ["ok", "prefect"]


@pytest.mark.parametrize(
    ("variables", "level"),
    [
        ({}, Level.OK),
        ({"I2V_DOOR_TOKEN": "a-token-of-the-test"}, Level.WARNING),
        ({"I2V_DOOR_TOKEN": "a-token-of-the-test", "I2V_DEFAULT_PROMPT": "it moves"}, Level.OK),
        (
            {"I2V_DOOR_TOKEN": "a-token-of-the-test", "I2V_PROMPTS_BY_PREFIX": '{"cats/": "the cat yawns"}'},
            Level.WARNING,
        ),
    ],
    ids=["by hand", "no prompt", "default", "some prefixes"],
)
async def test_images_that_would_land_without_a_prompt(
    make_settings: MakeSettings, variables: dict[str, str], level: Level
) -> None:
    """Where images land, a missing default prompt is a warning that says how to set it."""
    finding = await check_prompts(make_settings(**variables))

    assert finding.level is level
    assert ("I2V_DEFAULT_PROMPT" in finding.hint) == (level is Level.WARNING)


async def test_a_certificate_that_is_not_trusted_is_named(make_settings: MakeSettings, tmp_path: Path) -> None:
    """The check of the key says that TLS failed and which variable names a private CA, instead of 'no connection'."""
    context, _ = own_authority(tmp_path, "localhost")
    async with running(send_json(200, {}), context=context) as server:
        url = server.url.replace("127.0.0.1", "localhost")
        settings = make_settings(APIXO_API_KEY="key", APIXO_BASE_URL=url)
        finding = await run_check("key", lambda: check_key(settings))

    assert finding.level is Level.FAULT
    assert "certificate" in finding.message
    assert "SSL_CERT_FILE" in finding.hint
