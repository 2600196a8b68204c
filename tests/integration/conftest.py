"""One flow run's resources against the sandbox, without Prefect: what the ledger's tests drive the steps with."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from decimal import Decimal
from uuid import uuid4

import pytest

from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import find_items
from i2v.pipeline.run import Run, open_run
from i2v.pipeline.submit import Order
from i2v.pipeline.validate import make_order, make_request, resolve_image, validate_image
from i2v.settings import Settings
from sandbox import Sandbox
from sandbox.pictures import make_jpeg

OpenRun = Callable[..., AbstractAsyncContextManager[Run]]


@pytest.fixture
def aws(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """boto3 reads its own environment: give it the sandbox's."""
    for name, value in sandbox.env.items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)


@pytest.fixture
def new_run(settings: Settings, aws: None) -> OpenRun:
    """What opens a run as a process of its own would; keywords change the settings: `new_run(lease_seconds=1.0)`."""

    @asynccontextmanager
    async def opened(
        *, run_id: str = "", max_spend_usd: Decimal | None = None, **changes: object
    ) -> AsyncIterator[Run]:
        own = settings.model_copy(update=changes)
        async with open_run(own, run_id or str(uuid4()), max_spend_usd=max_spend_usd) as run:
            yield run

    return opened


async def order_of(run: Run, uri: str, prompt: str = "a slow zoom", **asked: object) -> Order:
    """The order of one image, through the real validation."""
    (item,) = await find_items(uri, run.storage, run.settings)
    seen = await resolve_image(run, item, RequestOptions.model_validate({"prompt": prompt, **asked}))
    return make_order(run, seen, await validate_image(run, seen), make_request(seen))


def put(sandbox: Sandbox, name: str = "tom.jpg", seed: int = 1) -> str:
    """Put a good image and give its address."""
    return sandbox.put_image(f"images/{name}", make_jpeg(640, 480, seed=seed))
