"""Where a run's secrets come from: the environment, or the Prefect blocks that two settings name.

Blocks are loaded inside the run, so that no parameter, state or result ever holds what is in them. The block type of
the provider's key is here, `deployments.setup` registers it; for S3 it is Prefect's well-known AWS credentials.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import boto3
from botocore.credentials import AssumeRoleCredentialFetcher, DeferredRefreshableCredentials
from botocore.session import get_session
from prefect.blocks.core import Block
from pydantic import Field, SecretStr

from i2v.errors import UsageError
from i2v.s3.storage import Storage
from i2v.settings import Settings, read_settings

if TYPE_CHECKING:
    from prefect_aws.credentials import AwsCredentials

B = TypeVar("B", bound=Block)


class ApixoKey(Block):
    """The provider's API key. Name the document in I2V_APIXO_KEY_BLOCK."""

    _block_type_name = "APIXO key"
    _block_type_slug = "apixo-key"

    key: SecretStr = Field(description="The API key of the video provider, as its console shows it.")


class RunSettings(NamedTuple):
    """What `open_run` takes; close the storage, or hand it on to who does."""

    settings: Settings
    storage: Storage


async def read_run_settings() -> RunSettings:
    """Read the environment, and the blocks that it names.

    Raises:
        UsageError: a variable has a value that cannot be meant, or a block is not there or cannot be used.
    """
    settings = read_settings()
    session = await _aws_session(settings.aws_block) if settings.aws_block else None
    if settings.key_block:
        block = await _load(ApixoKey, settings.key_block, "I2V_APIXO_KEY_BLOCK")
        settings = settings.model_copy(update={"api_key": block.key})
    return RunSettings(settings, Storage(session=session))


async def _load(kind: type[B], name: str, variable: str) -> B:
    called = f"{variable}={name}: the block {kind.get_block_type_slug()}/{name}"
    try:
        return await kind.aload(name)
    except ValueError:  # Prefect's word for a missing document, and pydantic's for one that does not fit
        raise UsageError(
            f"{called} does not exist, or lacks a field",
            f"Make it in Prefect's UI under Blocks, of type {kind.get_block_type_name()!r} (make deploy registers it)",
        ) from None
    except Exception as error:  # noqa: BLE001 - whatever it was, its own words could hold a value
        raise UsageError(f"{called} could not be read: {type(error).__name__}", "Is the Prefect server well?") from None


async def _aws_session(name: str) -> boto3.Session:
    """Our own session from the block's credentials: prefect-aws keeps clients whose assumed role has run out."""
    from prefect_aws.credentials import AwsCredentials  # noqa: PLC0415 - 0.7 s, which only who names a block pays

    block = await _load(AwsCredentials, name, "I2V_AWS_CREDENTIALS_BLOCK")
    if block.aws_client_parameters.endpoint_url:
        raise UsageError(
            f"I2V_AWS_CREDENTIALS_BLOCK={name}: the block names an endpoint, which is not read",
            "Set AWS_ENDPOINT_URL in the worker's environment, and clear it in the block",
        )
    secret = block.aws_secret_access_key
    session = boto3.Session(
        aws_access_key_id=block.aws_access_key_id,
        aws_secret_access_key=secret.get_secret_value() if secret else None,
        aws_session_token=block.aws_session_token,
        profile_name=block.profile_name,
        region_name=block.region_name,
    )
    return _assuming(session, block) if block.assume_role_arn else session


def _assuming(session: boto3.Session, block: AwsCredentials) -> boto3.Session:
    """The same with an assumed role that is assumed anew before it runs out: a run may outlive an hour."""
    source = session._session  # noqa: SLF001 - boto3 has no public way to credentials that refresh themselves
    extra = {"RoleSessionName": "i2v", **block.assume_role_kwargs.get_params_override()}
    role = str(block.assume_role_arn)
    fetcher = AssumeRoleCredentialFetcher(source.create_client, source.get_credentials(), role, extra_args=extra)
    core: Any = get_session()
    core._credentials = DeferredRefreshableCredentials(fetcher.fetch_credentials, "assume-role")  # noqa: SLF001 - as above
    return boto3.Session(botocore_session=core, region_name=block.region_name)
