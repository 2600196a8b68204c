"""What breaks for one image ends that image alone, in the flow as Prefect runs it, and leaves nothing behind."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from i2v.request import Request
from sandbox import Sandbox
from sandbox.fault_proxy import FaultProxy, FaultRule
from sandbox.provider import Provider
from sandbox.synthetic_images import make_jpeg
from tests.support.flow_runs import RunFlow

PROMPT = "it moves"
NESTED = b"[" * 100_000
"""No JSON, and so deep that Python's parser gives up with an error that nobody expects."""


@pytest.fixture
def proxy(run_flow: RunFlow, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """What stands between the flow and S3."""
    with FaultProxy(sandbox.aws.address) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        sandbox.provider.set_options(s3_address=proxy.address)
        yield proxy


def fill(sandbox: Sandbox, count: int) -> list[str]:
    """So many different good images; their addresses."""
    return [sandbox.put_image(f"images/{number}.jpg", make_jpeg(400, 400, seed=number)) for number in range(count)]


async def test_a_read_that_fails_ends_its_image_and_is_not_cached(
    sandbox: Sandbox, provider: Provider, proxy: FaultProxy, run_flow: RunFlow
) -> None:
    """S3 denies one image once: the others are stored, and the next run validates and stores it."""
    zero, one, two = fill(sandbox, 3)
    proxy.add(FaultRule("fail", "GET", r"/images/1\.jpg$", status=403, code="RequestTimeTooSkewed"))
    ended = await run_flow()
    again = await run_flow()
    assert ended.outcomes == {zero: "stored", one: "failed", two: "stored"}
    assert ended.message == "2 stored · 1 failed · $0.384"
    assert again.outcomes == {zero: "cached", one: "stored", two: "cached"}
    assert again.message == "1 stored · 2 cached · $0.192"


@pytest.mark.parametrize("broken", [b"{", NESTED], ids=["expected", "unexpected"])
async def test_a_record_that_cannot_be_read_ends_its_image_alone(
    sandbox: Sandbox, provider: Provider, run_flow: RunFlow, broken: bytes
) -> None:
    """One corrupt record of the ledger costs its own image; all others are stored and the report is complete."""
    zero, one, two = fill(sandbox, 3)
    key = Request(prompt=PROMPT).job_key(hashlib.sha256(sandbox.read("images/1.jpg")).hexdigest())
    sandbox.s3().put_object(Bucket=sandbox.bucket, Key=f"jobs/{key}.json", Body=broken)
    ended = await run_flow(prompt=PROMPT)
    assert ended.outcomes == {zero: "stored", one: "failed", two: "stored"}
    assert ended.message == "2 stored · 1 failed · $0.384"
    assert sandbox.read(f"jobs/{key}.json") == broken


async def test_a_disk_that_takes_nothing_costs_no_money(
    sandbox: Sandbox, provider: Provider, run_flow: RunFlow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no video can be put aside each paid image is told with its money, and stored later at no cost."""
    uris = fill(sandbox, 2)
    with monkeypatch.context() as full:
        full.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
        ended = await run_flow()
    again = await run_flow()
    assert ended.outcomes == dict.fromkeys(uris, "failed")
    assert {item["task_id"] for item in ended.report["items"]} == set(provider.tasks)
    assert ended.message == "2 failed · $0.384"
    assert again.message == "2 stored · $0.00"
