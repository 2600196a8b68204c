"""Secrets from Prefect blocks: loaded inside a run, and shown nowhere."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest
from prefect import flow, get_run_logger, runtime
from prefect.client.orchestration import get_client
from prefect_aws.assume_role_parameters import AssumeRoleParameters
from prefect_aws.client_parameters import AwsClientParameters
from prefect_aws.credentials import AwsCredentials
from pydantic import SecretStr

from i2v.errors import UsageError
from i2v.s3_uri import S3Uri
from prefect_support.credentials import ApixoKey, read_run_settings
from sandbox import Sandbox
from sandbox.prefect_server import PrefectServer
from sandbox.synthetic_images import make_jpeg
from tests.support.flow_runs import RunFlow

KEY = "key-of-the-block-hunter2"
SECRET = "secret-of-the-block-hunter2"
ROLE = "arn:aws:iam::000000000000:role/i2v"
HELD: list[tuple[str | None, str, str | None]] = []
"""What a run had in its hands: the provider's key, the access key and the session token."""


@pytest.fixture(autouse=True)
def collected(ignore_sockets_left_open_by_prefect: None) -> Iterator[None]:
    """What Prefect leaves is found while it is ignored, and not in a later test."""
    yield
    gc.collect()


@pytest.fixture
def name(prefect_server: PrefectServer, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of both blocks, set as a worker's environment has them, with no key of either kind beside."""
    name = f"team-{uuid4().hex[:8]}"
    secrets = {"APIXO_API_KEY", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"}
    for variable, value in sandbox.env.items():
        if variable not in secrets:
            monkeypatch.setenv(variable, value)
    for variable in secrets:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "nowhere")
    monkeypatch.setenv("I2V_APIXO_KEY_BLOCK", name)
    monkeypatch.setenv("I2V_AWS_CREDENTIALS_BLOCK", name)
    return name


@flow(name="reads")
async def reads(place: str) -> str:
    """Reads its settings as our flows do, writes an object and reads it back."""
    settings, storage = await read_run_settings()
    with storage:
        await storage.put(S3Uri.parse(place), b"it works")
        found = await storage.get(S3Uri.parse(place))
        credentials = storage._session.get_credentials()  # noqa: SLF001 - nobody else needs to see them
    assert credentials
    assert settings.api_key
    HELD.append((settings.api_key.get_secret_value(), credentials.access_key, credentials.token))
    get_run_logger().info("%s %s %s", settings, storage, credentials)
    return f"{runtime.flow_run.id} {found.body.decode()}"


async def _save(name: str, sandbox: Sandbox, **fields: object) -> None:
    await ApixoKey(key=SecretStr(KEY)).asave(name)
    block = AwsCredentials(
        aws_access_key_id="AKIAOFTHEBLOCK",
        aws_secret_access_key=SecretStr(SECRET),
        region_name=sandbox.env.get("AWS_DEFAULT_REGION", "us-east-1"),
        **fields,
    )
    await block.asave(name)


async def test_a_run_takes_its_secrets_from_the_blocks(name: str, sandbox: Sandbox) -> None:
    """With neither key in the environment it reaches S3 with the block's, and no parameter, state or log holds one."""
    await _save(name, sandbox)

    said = await reads(f"s3://{sandbox.bucket}/images/a.txt")

    assert said.endswith("it works")
    assert HELD.pop() == (KEY, "AKIAOFTHEBLOCK", None)
    async with get_client() as client:
        run = await client.read_flow_run(UUID(said.split()[0]))
        logs = await client.read_logs()
        block = await client.read_block_document_by_name(name, "apixo-key", include_secrets=False)
    shown = run.model_dump_json() + json.dumps([log.message for log in logs]) + block.model_dump_json()
    assert str(run.id) in shown
    assert [secret for secret in (KEY, SECRET) if secret in shown] == []


async def test_generate_takes_its_keys_from_the_blocks(run_flow: RunFlow, name: str, sandbox: Sandbox) -> None:
    """The real flow pays with the block's key, and signs the image's address with the block's credentials."""
    sandbox.put_image("images/tom.jpg", make_jpeg(400, 400))
    await ApixoKey(key=SecretStr(sandbox.provider.options.api_key)).asave(name)
    block = AwsCredentials(aws_access_key_id="test", aws_secret_access_key=SecretStr("test"), region_name="us-east-1")
    await block.asave(name)

    ended = await run_flow(f"s3://{sandbox.bucket}/images/")

    assert ended.message == "1 stored · $0.192"


async def test_an_assumed_role_is_assumed_by_us(name: str, sandbox: Sandbox) -> None:
    """A role's credentials are temporary ones of our own session, which takes new ones before they run out."""
    kwargs = AssumeRoleParameters(RoleSessionName="night", DurationSeconds=900)
    await _save(name, sandbox, assume_role_arn=ROLE, assume_role_kwargs=kwargs)

    assert (await reads(f"s3://{sandbox.bucket}/images/b.txt")).endswith("it works")

    key, access, token = HELD.pop()
    assert key == KEY
    assert access != "AKIAOFTHEBLOCK"
    assert token


async def test_a_block_that_is_not_there_is_told_with_what_to_do(name: str, sandbox: Sandbox) -> None:
    """Each names its setting, the block, and where one makes it."""
    with pytest.raises(UsageError, match=f"I2V_AWS_CREDENTIALS_BLOCK={name}.*aws-credentials/{name} does not exist"):
        await read_run_settings()
    await _save(name, sandbox)
    await ApixoKey.adelete(name)
    with pytest.raises(UsageError, match=f"I2V_APIXO_KEY_BLOCK={name}.*apixo-key/{name} does not exist") as caught:
        await read_run_settings()
    assert "under Blocks, of type 'APIXO key' (make deploy registers the type)" in caught.value.hint


async def test_an_endpoint_in_the_block_is_not_ignored_in_silence(name: str, sandbox: Sandbox) -> None:
    """Whoever wrote it there is told that it belongs into the environment."""
    await _save(name, sandbox, aws_client_parameters=AwsClientParameters(endpoint_url="http://127.0.0.1:9"))

    with pytest.raises(UsageError, match="endpoint URL is not used") as caught:
        await read_run_settings()
    assert "AWS_ENDPOINT_URL" in caught.value.hint


async def test_without_blocks_the_environment_counts(
    name: str, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no block is named, none is asked for."""
    monkeypatch.delenv("I2V_APIXO_KEY_BLOCK")
    monkeypatch.delenv("I2V_AWS_CREDENTIALS_BLOCK")
    monkeypatch.setenv("APIXO_API_KEY", "of-the-environment")

    settings, storage = await read_run_settings()
    storage.close()

    assert settings.api_key == SecretStr("of-the-environment")
