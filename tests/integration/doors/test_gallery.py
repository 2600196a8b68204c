"""The gallery over real sockets and a real S3: what is shown, and how little S3 is asked for it."""

from __future__ import annotations

import re
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import httpx

from doors.gallery.listing import MAX_RUNS, PAGE_SIZE, RUN_PAGE_LIMIT_BYTES
from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import find_items
from i2v.ledger import keys
from i2v.pipeline.generate import Steps, generate
from i2v.pipeline.run import Run
from i2v.recovery.resolve import Resolver
from i2v.reports.recent import RecentItem, RecentPage
from i2v.reports.run_report import Outcome
from i2v.request import Mode
from i2v.s3.storage import Storage
from i2v.settings import Settings
from sandbox import Sandbox
from sandbox.synthetic_images import make_jpeg
from tests.support.gallery_client import NOON, links, older, shown, visiting, write_page
from tests.support.orders import OpenRun, put_photo


async def _animate(run: Run, *files: str, prompt: str = "a slow zoom") -> None:
    bucket = run.settings.bucket
    items = await find_items([f"s3://{bucket}/images/{name}" for name in files], run.storage, run.settings)
    await generate(run, items, RequestOptions.model_validate({"prompt": prompt}), Steps())


async def test_a_run_is_seen_whole(sandbox: Sandbox, new_run: OpenRun, settings: Settings, aws: None) -> None:
    """A stored video plays and has all its details; what did not work has its reason and the command to type."""
    for seed, name in enumerate(("cats/tom.jpg", "bad.jpg", "lost.jpg")):
        put_photo(sandbox, name, seed=seed)
    sandbox.put_image("images/small.jpg", make_jpeg(200, 200))
    async with new_run(run_id="one") as run:
        await _animate(run, "cats/tom.jpg", "small.jpg", prompt='it <b>yawns</b> & "stretches"')
    sandbox.provider.add_fault(on="task", kind="fails", code="Weird", message="it broke")
    async with new_run(run_id="two") as run:
        await _animate(run, "bad.jpg")
    sandbox.provider.add_fault(on="submit", kind="lost_answer")
    async with new_run(run_id="three") as run:
        await _animate(run, "lost.jpg")

    async with visiting(settings) as visitor:
        page = await visitor.get()
        assert shown(page) == ["lost.jpg", "bad.jpg", *shown(page)[2:]]
        assert set(shown(page)[2:]) == {"cats/tom.jpg", "small.jpg"}
        href, video, poster = links(page, "cats/tom.jpg")
        async with httpx.AsyncClient(trust_env=False) as client:
            media = [await client.get(url) for url in (video, poster)]
        details = (await visitor.get(href)).text

    assert [(got.status_code, got.headers["content-type"]) for got in media] == [
        (200, "video/mp4"),
        (200, "image/jpeg"),
    ]
    assert parse_qs(urlsplit(video).query)["X-Amz-Expires"] == ["900"]
    [key] = [key for key in sandbox.keys("videos/cats/") if key.endswith(".json")]
    manifest = sandbox.read_json(key)
    for told in (manifest["task_id"], manifest["job"], manifest["video"]["sha256"], "$0.192", "6 s", "h264"):
        assert told in details
    assert "it &lt;b&gt;yawns&lt;/b&gt; &amp; &#34;stretches&#34;" in details
    assert "must be more than 300 px" in page.text
    assert "it broke" in page.text
    words = re.sub(r"</?span>", "", page.text)
    assert "--resubmit" in words
    assert "--adopt TASKID" in words
    assert f"i2v run s3://{sandbox.bucket}/images/small.jpg" in words


async def test_what_was_settled_since_is_told(
    sandbox: Sandbox, new_run: OpenRun, settings: Settings, aws: None
) -> None:
    """A card tells how its job ended and how it is now, so that nobody resolves what is resolved."""
    put_photo(sandbox)
    sandbox.provider.add_fault(on="submit", kind="lost_answer")
    async with new_run(run_id="one") as run:
        await _animate(run, "tom.jpg")
    async with visiting(settings) as visitor:
        assert ">now" not in (await visitor.get()).text
        with Storage() as storage:
            [key] = [key[5:-5] for key in sandbox.keys("jobs/") if re.fullmatch(r"jobs/[0-9a-f]{64}\.json", key)]
            await Resolver(storage, run.settings).drop(key)
        page = await visitor.get("/gallery?outcome=unknown")
    assert shown(page) == ["tom.jpg"]
    assert ">now failed<" in page.text


async def test_the_bucket_is_never_listed(sandbox: Sandbox, settings: Settings, aws: None) -> None:
    """However many runs and images there are, a page costs one listing and forty small reads at most."""
    for number in range(MAX_RUNS + 10):
        write_page(sandbox, settings, number, [f"r{number}/a.jpg"])
    write_page(sandbox, settings, 99, [f"many/{number:03}.jpg" for number in range(2 * PAGE_SIZE + 1)])
    seen: list[str] = []
    path: str | None = "/gallery"
    async with visiting(settings) as visitor:
        while path:
            page = await visitor.get(path)
            assert visitor.requests["ListObjectsV2"] == 1
            assert visitor.requests.total() <= 1 + MAX_RUNS
            visitor.requests.clear()
            assert len(shown(page)) <= PAGE_SIZE
            seen += shown(page)
            path = older(page)

    many = [f"many/{number:03}.jpg" for number in reversed(range(2 * PAGE_SIZE + 1))]
    assert seen == many + [f"r{number}/a.jpg" for number in reversed(range(MAX_RUNS + 10))]


async def test_a_rare_find_takes_several_steps_and_no_long_one(sandbox: Sandbox, settings: Settings, aws: None) -> None:
    """Where forty runs hold nothing that fits, the page says how far it looked and goes on from there."""
    write_page(sandbox, settings, 0, ["rare/old.jpg", "other/old.jpg"])
    for number in range(1, MAX_RUNS + 5):
        write_page(sandbox, settings, number, ["often/a.jpg"])
    async with visiting(settings) as visitor:
        first = await visitor.get("/gallery?folder=rare")
        assert shown(first) == []
        assert "Search older runs" in first.text
        assert visitor.requests == {"ListObjectsV2": 1, "GetObject": MAX_RUNS}
        second = await visitor.get(older(first) or "")
    assert (shown(second), older(second)) == (["rare/old.jpg"], None)


async def test_a_growing_page_moves_nothing(sandbox: Sandbox, settings: Settings, aws: None) -> None:
    """While a run still adds images, who goes on to what is older misses none and sees none twice."""
    images = [f"{number:02}.jpg" for number in range(PAGE_SIZE + 3)]
    write_page(sandbox, settings, 1, images)
    async with visiting(settings) as visitor:
        first = await visitor.get()
        href, _, _ = links(first, images[-1])
        write_page(sandbox, settings, 1, [*images, "new.jpg"])
        second = await visitor.get(older(first) or "")
        assert f'<bdi class="file">{images[-1]}</bdi>' in (await visitor.get(href)).text
    assert shown(first) + shown(second) == images[::-1]


async def test_filters_narrow_what_is_shown(sandbox: Sandbox, settings: Settings, aws: None) -> None:
    """Folder with all below it, mode, UTC day and outcome, each alone and together, and all stand in the address."""
    write_page(sandbox, settings, 1, ["cats/a.jpg", "cats/young/b.jpg", "catsup/c.jpg", "d.jpg"])
    write_page(sandbox, settings, 2, ["cats/e.jpg"], mode=Mode.PRO)
    write_page(sandbox, settings, 3, ["cats/f.jpg"], outcome=Outcome.REFUSED, video=None, reason="no")
    write_page(sandbox, settings, 4, ["cats/g.jpg"], at=NOON - timedelta(days=9))
    late = (NOON + timedelta(days=1)).replace(hour=1)
    write_page(sandbox, settings, 5, ["cats/h.jpg"], at=NOON.replace(hour=23, minute=50))
    sandbox_page = keys.recent_page_uri(settings, NOON.replace(hour=23), "over").key
    page = RecentPage(
        run_id="over",
        started_at=NOON.replace(hour=23),
        items=(RecentItem(image=f"s3://{sandbox.bucket}/images/i.jpg", outcome=Outcome.STORED, at=late),),
    )
    sandbox.s3().put_object(Bucket=sandbox.bucket, Key=sandbox_page, Body=page.model_dump_json().encode())
    async with visiting(settings) as visitor:
        found = {
            query: set(shown(await visitor.get(f"/gallery?{query}")))
            for query in (
                "folder=cats",
                "folder=/cats/young/&mode=",
                "mode=pro&outcome=",
                "outcome=refused",
                "day=2026-11-13",
                "day=2026-11-23",
                "day=2026-11-22&folder=cats&mode=standard&outcome=stored",
            )
        }
        visitor.requests.clear()
        await visitor.get("/gallery?day=2026-11-30")
        assert visitor.requests == {"ListObjectsV2": 1}, "no run that began so long before is read"
    assert list(found.values()) == [
        {f"cats/{name}.jpg" for name in ("a", "young/b", "e", "f", "g", "h")},
        {"cats/young/b.jpg"},
        {"cats/e.jpg"},
        {"cats/f.jpg"},
        {"cats/g.jpg"},
        {"i.jpg"},
        {"cats/a.jpg", "cats/young/b.jpg", "cats/h.jpg"},
    ]


async def test_what_is_gone_is_told_in_words(sandbox: Sandbox, new_run: OpenRun, settings: Settings, aws: None) -> None:
    """A deleted video, a replaced image, a broken manifest and an unreadable page: each a sentence."""
    for seed, name in enumerate(("gone.jpg", "new.jpg", "torn.jpg")):
        put_photo(sandbox, name, seed=seed)
    async with new_run(run_id="one") as run:
        await _animate(run, "gone.jpg", "new.jpg", "torn.jpg")
    s3, bucket = sandbox.s3(), sandbox.bucket
    for key in sandbox.keys("videos/gone.jpg/"):
        s3.delete_object(Bucket=bucket, Key=key)
    put_photo(sandbox, "new.jpg", seed=9)
    [manifest] = [key for key in sandbox.keys("videos/torn.jpg/") if key.endswith(".json")]
    s3.put_object(Bucket=bucket, Key=manifest, Body=b'{"video": {"seconds": "soon"')
    s3.put_object(Bucket=bucket, Key="jobs/recent/0000000000000-x.json", Body=b"{")
    s3.put_object(Bucket=bucket, Key="jobs/recent/README", Body=b"not ours")
    huge = b" " * RUN_PAGE_LIMIT_BYTES + RecentPage(run_id="huge", started_at=NOON).model_dump_json().encode()
    s3.put_object(Bucket=bucket, Key="jobs/recent/0000000000001-huge.json", Body=huge)
    async with visiting(settings) as visitor:
        page = await visitor.get()
        details = {name: (await visitor.get(links(page, name)[0])).text for name in ("gone.jpg", "new.jpg", "torn.jpg")}
        s3.delete_object(Bucket=bucket, Key="images/new.jpg")
        deleted = (await visitor.get(links(page, "new.jpg")[0])).text
    assert "2 runs cannot be shown" in page.text
    assert "The video is no longer in the bucket." in details["gone.jpg"]
    assert "The manifest is no longer in the bucket." in details["gone.jpg"]
    assert "The image has been replaced since." in details["new.jpg"]
    assert "The image is no longer in the bucket." in deleted
    assert "The manifest cannot be read." in details["torn.jpg"]
    assert "The video is no longer" not in details["torn.jpg"]


async def test_a_bucket_without_runs_says_how_to_begin(sandbox: Sandbox, settings: Settings, aws: None) -> None:
    """Who comes first is told what to type; who filters finds nothing and the way back."""
    async with visiting(settings) as visitor:
        first = re.sub(r"</?span>", "", (await visitor.get()).text)
        assert f"i2v run s3://{sandbox.bucket}/images/ --prompt" in first
        assert "Show all" in (await visitor.get("/gallery?mode=pro")).text
