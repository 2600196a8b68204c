"""The block types for credentials. Block documents belong to users and are never read here."""

from contextlib import suppress

from prefect.blocks.core import Block
from prefect.client.orchestration import PrefectClient
from prefect.exceptions import ObjectNotFound
from prefect_aws.credentials import AwsCredentials

from deployments import Change, SetupResult
from prefect_support.credentials import ApixoKey

BLOCK_TYPES: tuple[type[Block], ...] = (ApixoKey, AwsCredentials)


async def set_up_blocks(client: PrefectClient) -> list[SetupResult]:
    """Register the block types that are missing or outdated."""
    return [await _register(client, block_type) for block_type in BLOCK_TYPES]


async def _register(client: PrefectClient, block_type: type[Block]) -> SetupResult:
    slug = block_type.get_block_type_slug()
    change = Change.CREATED
    with suppress(ObjectNotFound):
        await client.read_block_type_by_slug(slug)
        change = Change.UPDATED
        await client.read_block_schema_by_checksum(block_type._calculate_schema_checksum())  # noqa: SLF001 - no public API
        return SetupResult(Change.UNCHANGED, f"block type {slug}")
    await block_type.aregister_type_and_schema(client=client)
    return SetupResult(change, f"block type {slug}")
