"""Credentials of a run: from the environment, or from the Prefect blocks that two settings name.

Blocks are loaded inside the run, so that no parameter, state or result holds their values. The block type `ApixoKey` is
registered by `make deploy`; the block for S3 is Prefect's own `AwsCredentials`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import boto3
from botocore.credentials import AssumeRoleCredentialFetcher, CredentialProvider, DeferredRefreshableCredentials
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
    """The provider's API key. Set I2V_APIXO_KEY_BLOCK to the name of the block."""

    _block_type_name = "APIXO key"
    _block_type_slug = "apixo-key"

    key: SecretStr = Field(description="The API key of the video provider, as its console shows it.")


async def read_run_settings() -> tuple[Settings, Storage]:
    """Read the environment and the blocks that it names. The caller closes the storage.

    Raise `UsageError` if a variable is invalid, or a block does not exist or cannot be used.
    """
    settings = read_settings()
    session = await _aws_session(settings.aws_block) if settings.aws_block else None
    if settings.key_block:
        block = await _load(ApixoKey, settings.key_block, "I2V_APIXO_KEY_BLOCK")
        settings = settings.model_copy(update={"api_key": block.key})
    return settings, Storage(session=session)


async def _load(kind: type[B], name: str, variable: str) -> B:
    block = f"{variable}={name}: the block {kind.get_block_type_slug()}/{name}"
    try:
        return await kind.aload(name)
    except ValueError:  # Prefect raises it for a missing document, pydantic for an invalid one
        raise UsageError(
            f"{block} does not exist, or lacks a field",
            f"Create it in Prefect's UI under Blocks, of type {kind.get_block_type_name()!r} "
            "(make deploy registers the type)",
        ) from None
    except Exception as error:  # noqa: BLE001 - whatever it is, its message could contain a secret
        raise UsageError(
            f"{block} could not be read: {type(error).__name__}", "Check that the Prefect server responds"
        ) from None


async def _aws_session(name: str) -> boto3.Session:
    """Create a session from the block. prefect-aws's own clients never renew the credentials of an assumed role."""
    from prefect_aws.credentials import AwsCredentials  # noqa: PLC0415 - 0.7 s, only where a block is named

    block = await _load(AwsCredentials, name, "I2V_AWS_CREDENTIALS_BLOCK")
    if block.aws_client_parameters.endpoint_url:
        raise UsageError(
            f"I2V_AWS_CREDENTIALS_BLOCK={name}: the block's endpoint URL is not used",
            "Set AWS_ENDPOINT_URL in the worker's environment, and clear the endpoint URL in the block",
        )
    session: boto3.Session = block.model_copy(update={"assume_role_arn": None}).get_boto3_session()
    return _assume_role(session, block) if block.assume_role_arn else session


class _AssumedRole(CredentialProvider):
    """Credentials of an assumed role, renewed before they expire: a run may take longer than an hour."""

    METHOD = "assume-role"

    def __init__(self, fetcher: AssumeRoleCredentialFetcher) -> None:
        super().__init__()
        self._fetcher = fetcher

    def load(self) -> DeferredRefreshableCredentials:
        """Return credentials that are fetched at first use."""
        return DeferredRefreshableCredentials(self._fetcher.fetch_credentials, self.METHOD)


def _assume_role(session: boto3.Session, block: AwsCredentials) -> boto3.Session:
    """Return a session whose credentials are those of the block's role."""
    extra = {"RoleSessionName": "i2v", **block.assume_role_kwargs.get_params_override()}
    role = str(block.assume_role_arn)
    fetcher = AssumeRoleCredentialFetcher(session.client, session.get_credentials(), role, extra_args=extra)
    core = get_session()
    core.get_component("credential_provider").providers.insert(0, _AssumedRole(fetcher))
    return boto3.Session(botocore_session=core, region_name=block.region_name)
