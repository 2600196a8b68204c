"""The report flow: its artifact in Prefect, and the chart behind a presigned URL."""

from __future__ import annotations

import io
import re
from html import unescape
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from PIL import Image

from flows.report import report_spend
from i2v.reports.markdown import as_text
from sandbox import Sandbox
from sandbox.server import TIMEOUT_SECONDS
from sandbox.synthetic_images import make_jpeg
from tests.support.flow_runs import RunFlow, artifacts_with_key

KEY = "i2v-spend"


async def test_the_report_artifact_has_a_chart(
    run_flow: RunFlow, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The artifact matches what was billed, its chart is a PNG behind a short-lived link, and links can be off."""
    sandbox.put_image("images/cats/tom.jpg", make_jpeg(seed=3))
    await run_flow(label="autumn")
    await run_flow()
    monkeypatch.setenv("I2V_LINK_SECONDS", "600")
    state = await report_spend(return_state=True)
    monkeypatch.setenv("I2V_LINK_SECONDS", "0")
    await report_spend(return_state=True)
    without_links, page = [str(each.data) for each in (await artifacts_with_key(KEY))[:2]]

    billed = as_text(f"${sandbox.provider.billed_usd}", 20)
    assert state.message == "1 attempt · $0.192 stored · $0.00 at risk · $0.192 saved"
    for row in (
        f"| **Charged or possibly charged** | **{billed}** |",
        f"| cats | 1 | {billed} |",
        f"| autumn | 1 | {billed} |",
    ):
        assert row in page
    [link] = map(unescape, re.findall(r'<img src="(\S+?)"', page))
    assert parse_qs(urlsplit(link).query)["X-Amz-Expires"] == ["600"]
    async with httpx.AsyncClient(trust_env=False, timeout=TIMEOUT_SECONDS) as client:
        answer = await client.get(link)
    assert answer.headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(answer.content), formats=("PNG",)) as picture:
        assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 20
    assert "X-Amz" not in without_links
    assert "xychart" in without_links


async def test_a_report_without_its_artifact_completes(
    run_flow: RunFlow, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If the artifact cannot be created the run still completes, and only the type of the error is logged."""
    sandbox.put_image("images/tom.jpg", make_jpeg(seed=4))
    await run_flow()
    before = len(await artifacts_with_key(KEY))

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("https://s3.example/a?X-Amz-Signature=1")

    monkeypatch.setattr("prefect_support.artifacts_api.MarkdownArtifact", fail)
    state = await report_spend(return_state=True)
    assert (state.is_completed(), len(await artifacts_with_key(KEY)) - before) == (True, 0)
    assert "was not created: RuntimeError" in caplog.text
    assert "X-Amz" not in caplog.text
