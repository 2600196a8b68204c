"""The gallery on real sockets and a real S3: what it shows, and how few S3 requests it needs."""

from __future__ import annotations

import re
from datetime import timedelta
from html import unescape
from urllib.parse import parse_qs, urlsplit

import httpx

from doors.gallery.listing import MAX_RUNS, PAGE_SIZE, RUN_PAGE_LIMIT_BYTES
from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import find_items
from i2v.ledger import keys
from i2v.pipeline.context import RunContext
from i2v.pipeline.generate import Steps, generate
from i2v.recovery.resolve_by_hand import Resolver
from i2v.reports.recent import RecentItem, RecentPage
from i2v.reports.run_report import Outcome
from i2v.request import Mode
from i2v.s3.storage import Storage
from i2v.settings import Settings
from sandbox import Sandbox
from sandbox.server import TIMEOUT_SECONDS
from sandbox.synthetic_images import make_jpeg
from tests.support.gallery_client import NOON, card_links, card_names, older_link, open_gallery, write_run_page
from tests.support.orders import OpenRun, put_photo

RUN = "0b5e0f3c-7a55-4a0e-9f0e-0d3f3c2f1a11"


async def _generate(run: RunContext, *files: str, prompt: str = "a slow zoom") -> None:
    bucket = run.settings.bucket
    items = await find_items([f"s3://{bucket}/images/{name}" for name in files], run.storage, run.settings)
    await generate(run, items, RequestOptions.model_validate({"prompt": prompt}), Steps())


async def test_a_run_is_shown_with_all_details(
    sandbox: Sandbox, new_run: OpenRun, settings: Settings, aws: None
) -> None:
    """A stored video plays and shows all details; other outcomes show their reason and a command."""
    for seed, name in enumerate(("cats/tom.jpg", "bad.jpg", "lost.jpg")):
        put_photo(sandbox, name, seed=seed)
    sandbox.put_image("images/small.jpg", make_jpeg(200, 200))
    async with new_run(run_id=RUN) as run:
        await _generate(run, "cats/tom.jpg", "small.jpg", prompt='it <b>yawns</b> & "stretches"')
    sandbox.provider.add_fault(on="task", kind="fails", code="Weird", message="it broke")
    async with new_run(run_id="two") as run:
        await _generate(run, "bad.jpg")
    sandbox.provider.add_fault(on="submit", kind="lost_answer")
    async with new_run(run_id="three") as run:
        await _generate(run, "lost.jpg")

    async with open_gallery(settings) as client:
        page = await client.get()
        assert card_names(page) == ["lost.jpg", "bad.jpg", *card_names(page)[2:]]
        assert set(card_names(page)[2:]) == {"cats/tom.jpg", "small.jpg"}
        href, video, poster = card_links(page, "cats/tom.jpg")
        async with httpx.AsyncClient(trust_env=False, timeout=TIMEOUT_SECONDS) as http:
            media = [await http.get(url) for url in (video, poster)]
            details = (await client.get(href)).text
            [download] = re.findall(r'id="download" href="([^"]+)"', details)
            saved = await http.get(unescape(download))

    assert [(got.status_code, got.headers["content-type"]) for got in media] == [
        (200, "video/mp4"),
        (200, "image/jpeg"),
    ]
    assert saved.headers["content-disposition"] == 'attachment; filename="tom.mp4"'
    assert f'id="run" href="https://prefect.example/{RUN}"' in details
    assert 'id="counts" role="status">1 stored · 1 refused · 1 failed · 1 unknown</p>' in page.text
    assert parse_qs(urlsplit(video).query)["X-Amz-Expires"] == ["900"]
    [key] = [key for key in sandbox.keys("videos/cats/") if key.endswith(".json")]
    manifest = sandbox.read_json(key)
    for value in (manifest["task_id"], manifest["job"], manifest["video"]["sha256"], "$0.192", "6 s", "h264"):
        assert value in details
    assert "it &lt;b&gt;yawns&lt;/b&gt; &amp; &#34;stretches&#34;" in details
    assert "must be more than 300 px" in page.text
    assert "it broke" in page.text
    words = re.sub(r"</?span>", "", page.text)
    assert "--resubmit" in words
    assert "--adopt TASKID" in words
    assert f"i2v run s3://{sandbox.bucket}/images/small.jpg" in words


async def test_a_later_state_is_shown(sandbox: Sandbox, new_run: OpenRun, settings: Settings, aws: None) -> None:
    """A card shows the outcome and the job's current state if they differ."""
    put_photo(sandbox)
    sandbox.provider.add_fault(on="submit", kind="lost_answer")
    async with new_run(run_id="one") as run:
        await _generate(run, "tom.jpg")
    async with open_gallery(settings) as client:
        assert ">now" not in (await client.get()).text
        with Storage() as storage:
            [key] = [key[5:-5] for key in sandbox.keys("jobs/") if re.fullmatch(r"jobs/[0-9a-f]{64}\.json", key)]
            await Resolver(storage, run.settings).drop(key)
        page = await client.get("/gallery?outcome=unknown")
    assert card_names(page) == ["tom.jpg"]
    assert ">now failed<" in page.text


async def test_the_bucket_is_never_listed(sandbox: Sandbox, settings: Settings, aws: None) -> None:
    """A page needs one listing and at most forty reads, however many runs and images exist."""
    for number in range(MAX_RUNS + 10):
        write_run_page(sandbox, settings, number, [f"r{number}/a.jpg"])
    write_run_page(sandbox, settings, 99, [f"many/{number:03}.jpg" for number in range(2 * PAGE_SIZE + 1)])
    names: list[str] = []
    path: str | None = "/gallery"
    async with open_gallery(settings) as client:
        while path:
            page = await client.get(path)
            assert client.requests["ListObjectsV2"] == 1
            assert client.requests.total() <= 1 + MAX_RUNS
            client.requests.clear()
            assert len(card_names(page)) <= PAGE_SIZE
            names += card_names(page)
            path = older_link(page)

    many = [f"many/{number:03}.jpg" for number in reversed(range(2 * PAGE_SIZE + 1))]
    assert names == many + [f"r{number}/a.jpg" for number in reversed(range(MAX_RUNS + 10))]


async def test_a_rare_match_is_found_in_several_steps(sandbox: Sandbox, settings: Settings, aws: None) -> None:
    """If forty runs have no match, the page says how far it searched and links to the next step."""
    write_run_page(sandbox, settings, 0, ["rare/old.jpg", "other/old.jpg"])
    for number in range(1, MAX_RUNS + 5):
        write_run_page(sandbox, settings, number, ["often/a.jpg"])
    async with open_gallery(settings) as client:
        first = await client.get("/gallery?folder=rare")
        assert card_names(first) == []
        assert "Search older runs" in first.text
        assert client.requests == {"ListObjectsV2": 1, "GetObject": MAX_RUNS}
        second = await client.get(older_link(first) or "")
    assert (card_names(second), older_link(second)) == (["rare/old.jpg"], None)


async def test_paging_is_stable_while_a_run_adds_images(sandbox: Sandbox, settings: Settings, aws: None) -> None:
    """While a run adds images, the next page neither skips nor repeats one."""
    images = [f"{number:02}.jpg" for number in range(PAGE_SIZE + 3)]
    write_run_page(sandbox, settings, 1, images)
    async with open_gallery(settings) as client:
        first = await client.get()
        href, _, _ = card_links(first, images[-1])
        write_run_page(sandbox, settings, 1, [*images, "new.jpg"])
        second = await client.get(older_link(first) or "")
        assert f'<bdi class="file">{images[-1]}</bdi>' in (await client.get(href)).text
    assert card_names(first) + card_names(second) == images[::-1]


async def test_filters_select_results(sandbox: Sandbox, settings: Settings, aws: None) -> None:
    """Folder (with subfolders), mode, UTC day and outcome filter alone and together."""
    write_run_page(sandbox, settings, 1, ["cats/a.jpg", "cats/young/b.jpg", "catsup/c.jpg", "d.jpg"])
    write_run_page(sandbox, settings, 2, ["cats/e.jpg"], mode=Mode.PRO)
    write_run_page(sandbox, settings, 3, ["cats/f.jpg"], outcome=Outcome.REFUSED, video=None, reason="no")
    write_run_page(sandbox, settings, 4, ["cats/g.jpg"], at=NOON - timedelta(days=9))
    late = (NOON + timedelta(days=1)).replace(hour=1)
    write_run_page(sandbox, settings, 5, ["cats/h.jpg"], at=NOON.replace(hour=23, minute=50))
    sandbox_page = keys.recent_page_uri(settings, NOON.replace(hour=23), "over").key
    page = RecentPage(
        run_id="over",
        started_at=NOON.replace(hour=23),
        items=(RecentItem(image=f"s3://{sandbox.bucket}/images/i.jpg", outcome=Outcome.STORED, at=late),),
    )
    sandbox.s3().put_object(Bucket=sandbox.bucket, Key=sandbox_page, Body=page.model_dump_json().encode())
    async with open_gallery(settings) as client:
        found = {
            query: set(card_names(await client.get(f"/gallery?{query}")))
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
        client.requests.clear()
        await client.get("/gallery?day=2026-11-30")
        assert client.requests == {"ListObjectsV2": 1}, "a page of a much earlier run was read"
    assert list(found.values()) == [
        {f"cats/{name}.jpg" for name in ("a", "young/b", "e", "f", "g", "h")},
        {"cats/young/b.jpg"},
        {"cats/e.jpg"},
        {"cats/f.jpg"},
        {"cats/g.jpg"},
        {"i.jpg"},
        {"cats/a.jpg", "cats/young/b.jpg", "cats/h.jpg"},
    ]


async def test_missing_and_broken_objects_are_explained(
    sandbox: Sandbox, new_run: OpenRun, settings: Settings, aws: None
) -> None:
    """A deleted video, a replaced or deleted image, a broken manifest and an unreadable page each show a sentence."""
    for seed, name in enumerate(("gone.jpg", "new.jpg", "torn.jpg")):
        put_photo(sandbox, name, seed=seed)
    async with new_run(run_id="one") as run:
        await _generate(run, "gone.jpg", "new.jpg", "torn.jpg")
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
    async with open_gallery(settings) as client:
        page = await client.get()
        details = {
            name: (await client.get(card_links(page, name)[0])).text for name in ("gone.jpg", "new.jpg", "torn.jpg")
        }
        s3.delete_object(Bucket=bucket, Key="images/new.jpg")
        deleted = (await client.get(card_links(page, "new.jpg")[0])).text
    assert "2 runs cannot be shown" in page.text
    assert "The video is no longer in the bucket." in details["gone.jpg"]
    assert "The manifest is no longer in the bucket." in details["gone.jpg"]
    assert "The image has been replaced since." in details["new.jpg"]
    assert "The image is no longer in the bucket." in deleted
    assert "The manifest cannot be read." in details["torn.jpg"]
    assert "The video is no longer" not in details["torn.jpg"]


async def test_an_empty_gallery_shows_the_first_command(sandbox: Sandbox, settings: Settings, aws: None) -> None:
    """Without runs the gallery shows a command to start with; a filter without matches links back."""
    async with open_gallery(settings) as client:
        first = re.sub(r"</?span>", "", (await client.get()).text)
        assert f"i2v run s3://{sandbox.bucket}/images/ --prompt" in first
        assert "Show all" in (await client.get("/gallery?mode=pro")).text
