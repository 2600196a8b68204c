"""Imported once by the fork server, so that forked processes do not each load what is the same for all of them.

Keep to what never changes: modules that are otherwise imported late, and boto3's service descriptions.
"""

from __future__ import annotations

import asyncio
import gc

import httpx
from botocore.config import Config

import i2v.cli.app
import i2v.cli.run_or_preview
import i2v.media.image_check
import i2v.media.videos
from tests.support.forked_processes import AWS_SESSION

__all__ = ["i2v"]

NOWHERE = "http://127.0.0.1:9"


async def _look_up() -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        try:
            await client.get(NOWHERE, timeout=1)
        except httpx.HTTPError:
            return


AWS_SESSION.set_default_client_config(Config(s3={"addressing_style": "path"}))  # else i2v makes a second client for it
AWS_SESSION.create_client(
    "s3",
    region_name="us-east-1",
    endpoint_url=NOWHERE,
    aws_access_key_id="nobody",
    aws_secret_access_key="nothing",
    config=Config(signature_version="s3v4"),
).close()
asyncio.run(_look_up())
gc.collect()
gc.freeze()
