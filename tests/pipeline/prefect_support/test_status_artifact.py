"""What somebody who sees only Prefect's UI can read off the page that reconcile leaves."""

from __future__ import annotations

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.objects import Artifact
from prefect.client.schemas.sorting import ArtifactSort

from flows.reconcile import reconcile_videos
from i2v.reports.markdown import as_text
from sandbox import Sandbox
from sandbox.synthetic_images import make_jpeg
from tests.support.flow_runs import RunFlow


async def _pages() -> list[Artifact]:
    """The pages under the key, newest first."""
    key = ArtifactFilter(key=ArtifactFilterKey(any_=["i2v-open"]))
    async with get_client() as client:
        return await client.read_artifacts(artifact_filter=key, sort=ArtifactSort.CREATED_DESC)


async def test_reconcile_tells_how_things_stand(run_flow: RunFlow, sandbox: Sandbox) -> None:
    """A lost submit is there with what to type, today's money too; a run for callbacks or a dry one leaves no page."""
    sandbox.put_image("images/tom.jpg", make_jpeg(seed=5))
    sandbox.provider.add_fault(on="submit", kind="lost_answer")
    lost = await run_flow()
    before = len(await _pages())
    await reconcile_videos(jobs=[], return_state=True)
    await reconcile_videos(dry_run=True, return_state=True)
    await reconcile_videos(return_state=True)
    newest, *others = await _pages()
    [item] = lost.report["items"]
    assert len(others) == before
    assert f"`i2v jobs resolve {item['job'][:12]} --adopt TASKID`" in str(newest.data)
    assert f"**Today** {as_text('$0.192', 20)} spent" in str(newest.data)
    assert newest.description == "1 needs attention · $0.192 today"
