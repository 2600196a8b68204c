"""Fixtures for the flows: a fault proxy in front of S3."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sandbox import Sandbox
from tests.support.fault_proxy import FaultProxy
from tests.support.flow_runs import RunFlow


@pytest.fixture
def s3_proxy(run_flow: RunFlow, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """Put a fault proxy between the flow and S3."""
    with FaultProxy(sandbox.aws.address) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        sandbox.provider.set_options(s3_address=proxy.address)
        yield proxy
