"""The status artifact that reconcile leaves in Prefect."""

from __future__ import annotations

from flows.reconcile import reconcile_videos
from i2v.reports.markdown import as_text
from sandbox import Sandbox
from sandbox.synthetic_images import make_jpeg
from tests.support.flow_runs import RunFlow, artifacts_with_key

KEY = "i2v-open"


async def test_reconcile_leaves_a_status_page(run_flow: RunFlow, sandbox: Sandbox) -> None:
    """The page has a command for an unknown job and today's spend; a collect run and a dry run leave no page."""
    sandbox.put_image("images/tom.jpg", make_jpeg(seed=5))
    sandbox.provider.add_fault(on="submit", kind="lost_answer")
    lost = await run_flow()
    [item] = lost.report["items"]
    nothing = await reconcile_videos(jobs=[], return_state=True)
    collect = await reconcile_videos(jobs=[item["job"]], return_state=True)
    dry_run = await reconcile_videos(dry_run=True, return_state=True)
    real = await reconcile_videos(return_state=True)
    runs = [each.state_details.flow_run_id for each in (nothing, collect, dry_run, real)]
    pages = [page for page in await artifacts_with_key(KEY) if page.flow_run_id in runs]  # others may run meanwhile
    [newest] = pages
    assert newest.flow_run_id == runs[-1]
    assert f"`i2v jobs resolve {item['job'][:12]} --adopt TASKID`" in str(newest.data)
    assert f"**Today** {as_text('$0.192', 20)} spent" in str(newest.data)
    assert newest.description == "1 needs attention · $0.192 today"
