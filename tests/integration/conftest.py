"""Fixtures for integration tests: a run's resources against the sandbox, without Prefect."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from uuid import uuid4

import pytest

from i2v.pipeline.context import RunContext
from i2v.pipeline.run import open_run
from i2v.settings import Settings
from sandbox import Sandbox
from tests.support.callback_receiver import CallbackReceiver, serve_callbacks
from tests.support.fault_proxy import FaultProxy
from tests.support.orders import OpenRun
from tests.support.settings import MakeSettings


@pytest.fixture(scope="session")
def aws_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configure path-style addressing. i2v finds out that the sandbox needs it, with a client more for each run."""
    file = tmp_path_factory.mktemp("aws") / "config"
    file.write_text("[default]\ns3 =\n  addressing_style = path\n")
    return file


@pytest.fixture
def aws(sandbox: Sandbox, aws_config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the sandbox's `AWS_*` variables, which boto3 reads itself."""
    monkeypatch.setenv("AWS_CONFIG_FILE", str(aws_config))
    for name, value in sandbox.env.items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)


@pytest.fixture
def new_run(settings: Settings, aws: None) -> OpenRun:
    """Open a run as a separate process would; keywords change the settings: `new_run(lease_seconds=1.0)`."""

    @asynccontextmanager
    async def opened(
        *, run_id: str = "", max_spend_usd: Decimal | None = None, **changes: object
    ) -> AsyncIterator[RunContext]:
        own = settings.model_copy(update=changes)
        async with open_run(own, run_id or str(uuid4()), max_spend_usd=max_spend_usd) as run:
            yield run

    return opened


@pytest.fixture
def s3_proxy(sandbox: Sandbox, aws: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """Put a fault proxy in front of S3, for i2v and for the provider."""
    with FaultProxy(sandbox.aws.address) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        sandbox.provider.set_options(s3_address=proxy.address)
        yield proxy


@pytest.fixture
def receiver(sandbox: Sandbox, make_settings: MakeSettings, aws: None) -> Iterator[CallbackReceiver]:
    """Start a server that receives the provider's callbacks; its `settings` enable them."""
    with serve_callbacks(make_settings, sandbox.env) as server:
        yield server
