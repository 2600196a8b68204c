"""Fixtures for erasure: a bucket with versions."""

from __future__ import annotations

import pytest

from sandbox import Sandbox


@pytest.fixture
def versioned(sandbox: Sandbox) -> Sandbox:
    """Return the sandbox with a versioned bucket."""
    sandbox.s3().put_bucket_versioning(Bucket=sandbox.bucket, VersioningConfiguration={"Status": "Enabled"})
    return sandbox
