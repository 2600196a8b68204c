"""Secrets from Prefect blocks: loaded during a run, and never shown."""

from __future__ import annotations

import json
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
pytestmark = pytest.mark.usefixtures("collect_prefect_sockets")
USED: list[tuple[str | None, str, str | None]] = []
"""The credentials that a run used: the API key, the access key and the session token."""


@pytest.fixture
def name(prefect_server: PrefectServer, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of both blocks, set as in a worker's environment, which has none of the secrets itself."""
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


@flow(name="read-and-write")
async def read_and_write(uri: str) -> str:
    """Read the settings as our flows do, write an object and read it back."""
    settings, storage = await read_run_settings()
    with storage:
        await storage.put(S3Uri.parse(uri), b"it works")
        found = await storage.get(S3Uri.parse(uri))
        credentials = storage._session.get_credentials()  # noqa: SLF001 - not public
    assert credentials
    assert settings.api_key
    USED.append((settings.api_key.get_secret_value(), credentials.access_key, credentials.token))
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
    """A run without keys in its environment uses the blocks', and no parameter, state or log has one."""
    await _save(name, sandbox)

    result = await read_and_write(f"s3://{sandbox.bucket}/images/a.txt")

    assert result.endswith("it works")
    assert USED.pop() == (KEY, "AKIAOFTHEBLOCK", None)
    async with get_client() as client:
        run = await client.read_flow_run(UUID(result.split()[0]))
        logs = await client.read_logs()
        block = await client.read_block_document_by_name(name, "apixo-key", include_secrets=False)
    shown = run.model_dump_json() + json.dumps([log.message for log in logs]) + block.model_dump_json()
    assert str(run.id) in shown
    assert [secret for secret in (KEY, SECRET) if secret in shown] == []


async def test_generate_takes_its_keys_from_the_blocks(run_flow: RunFlow, name: str, sandbox: Sandbox) -> None:
    """The generate flow pays with the block's API key, and presigns the image with the block's credentials."""
    sandbox.put_image("images/tom.jpg", make_jpeg(400, 400))
    await ApixoKey(key=SecretStr(sandbox.provider.options.api_key)).asave(name)
    block = AwsCredentials(aws_access_key_id="test", aws_secret_access_key=SecretStr("test"), region_name="us-east-1")
    await block.asave(name)

    finished = await run_flow(f"s3://{sandbox.bucket}/images/")

    assert finished.message == "1 stored · $0.192"


async def test_a_role_in_the_block_is_assumed(name: str, sandbox: Sandbox) -> None:
    """With a role, the run uses temporary credentials of its own session, which renews them."""
    kwargs = AssumeRoleParameters(RoleSessionName="night", DurationSeconds=900)
    await _save(name, sandbox, assume_role_arn=ROLE, assume_role_kwargs=kwargs)

    assert (await read_and_write(f"s3://{sandbox.bucket}/images/b.txt")).endswith("it works")

    key, access, token = USED.pop()
    assert key == KEY
    assert access != "AKIAOFTHEBLOCK"
    assert token


async def test_a_missing_block_is_an_error_with_a_hint(name: str, sandbox: Sandbox) -> None:
    """The error names the setting and the block, and the hint says how to create it."""
    with pytest.raises(UsageError, match=f"I2V_AWS_CREDENTIALS_BLOCK={name}.*aws-credentials/{name} does not exist"):
        await read_run_settings()
    await _save(name, sandbox)
    await ApixoKey.adelete(name)
    with pytest.raises(UsageError, match=f"I2V_APIXO_KEY_BLOCK={name}.*apixo-key/{name} does not exist") as caught:
        await read_run_settings()
    assert "under Blocks, of type 'APIXO key' (make deploy registers the type)" in caught.value.hint


async def test_an_endpoint_in_the_block_is_an_error(name: str, sandbox: Sandbox) -> None:
    """An endpoint URL in the block raises an error that names the environment variable to use instead."""
    await _save(name, sandbox, aws_client_parameters=AwsClientParameters(endpoint_url="http://127.0.0.1:9"))

    with pytest.raises(UsageError, match="endpoint URL is not used") as caught:
        await read_run_settings()
    assert "AWS_ENDPOINT_URL" in caught.value.hint


async def test_without_blocks_the_environment_is_used(
    name: str, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If no block is named, the API key comes from the environment."""
    monkeypatch.delenv("I2V_APIXO_KEY_BLOCK")
    monkeypatch.delenv("I2V_AWS_CREDENTIALS_BLOCK")
    monkeypatch.setenv("APIXO_API_KEY", "of-the-environment")

    settings, storage = await read_run_settings()
    storage.close()

    assert settings.api_key == SecretStr("of-the-environment")
