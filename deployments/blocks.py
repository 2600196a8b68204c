"""The block types that hold a run's secrets. Documents of them are people's, and never read here."""

from __future__ import annotations

from prefect.blocks.core import Block
from prefect.client.orchestration import PrefectClient
from prefect.exceptions import ObjectNotFound
from prefect_aws.credentials import AwsCredentials

from deployments import Change, SetupResult
from prefect_support.credentials import ApixoKey

KINDS: tuple[type[Block], ...] = (ApixoKey, AwsCredentials)


async def set_up_blocks(client: PrefectClient) -> list[SetupResult]:
    """Register the types that are missing or older than what the code reads."""
    return [await _register(client, kind) for kind in KINDS]


async def _register(client: PrefectClient, kind: type[Block]) -> SetupResult:
    what = f"block type {kind.get_block_type_slug()}"
    had_type, had_schema = await _is_there(client, kind)
    if had_type and had_schema:
        return SetupResult(Change.UNCHANGED, what)
    await kind.aregister_type_and_schema(client=client)
    return SetupResult(Change.CHANGED if had_type else Change.MADE, what)


async def _is_there(client: PrefectClient, kind: type[Block]) -> tuple[bool, bool]:
    try:
        await client.read_block_type_by_slug(kind.get_block_type_slug())
    except ObjectNotFound:
        return False, False
    try:
        await client.read_block_schema_by_checksum(kind._calculate_schema_checksum())  # noqa: SLF001 - as Prefect asks
    except ObjectNotFound:
        return True, False
    return True, True
