"""The gallery over real sockets: who gets in, what is handed out, and what odd requests are answered."""

from __future__ import annotations

import re
from html import unescape
from urllib.parse import urlsplit

from i2v.settings import Settings
from sandbox import Sandbox
from tests.support.gallery_client import TOKEN, links, shown, visiting, write_page


async def test_only_who_has_the_token_sees_anything(sandbox: Sandbox, settings: Settings, aws: None) -> None:
    """Without it every address tells nothing but that a token is wanted, and asks S3 nothing."""
    write_page(sandbox, settings, 1, ["secret-name.jpg"])
    async with visiting(settings) as visitor:
        href, *_ = links(await visitor.get(), "secret-name.jpg")
        visitor.requests.clear()
        for path in ("/gallery", href, "/gallery?folder=x", "/gallery/item/x"):
            for token in (None, "wrong", TOKEN[:-1]):
                refused = await visitor.get(path, token=token)
                assert (refused.status_code, refused.headers["cache-control"]) in {(401, "no-store"), (429, "no-store")}
                assert "secret-name" not in refused.text.replace(href, "")
                assert sandbox.bucket not in refused.text
        assert not visitor.requests


async def test_a_person_logs_in_and_out(sandbox: Sandbox, settings: Settings, aws: None) -> None:
    """The form leads back to where one was, the cookie opens from then on, and logging out ends it."""
    async with visiting(settings) as visitor:
        asked = await visitor.get("/gallery?folder=cats&day=2026-11-22", token=None)
        to = unescape(re.findall(r'name="to" value="([^"]*)"', asked.text)[0])
        answer = await visitor.log_in(to=to)
        assert (answer.status_code, answer.headers["location"]) == (303, "/gallery?folder=cats&day=2026-11-22")
        assert TOKEN not in str(answer.headers)
        assert (await visitor.get(token=None)).status_code == 200
        left = await visitor.client.post("/gallery/logout")
        assert left.status_code == 303
        assert (await visitor.get(token=None)).status_code == 401
        assert "Secure" in (await visitor.log_in(**{"X-Forwarded-Proto": "https"})).headers["set-cookie"]


ELSEWHERE = ("https://x.example", "//x.example", "/\\x.example", "/gallery.x.example", "/gallery?\r\nX: y", "/s3", "")


async def test_a_login_leads_nowhere_else(settings: Settings, aws: None) -> None:
    """Whatever a forged form says, one stays in the gallery."""
    async with visiting(settings) as visitor:
        led = [(await visitor.log_in(to=to)).headers["location"] for to in ELSEWHERE]
    assert set(led) == {"/gallery"}


async def test_a_link_from_elsewhere_finds_who_is_logged_in(settings: Settings, aws: None) -> None:
    """A browser that followed another site's link holds the cookie back; it is asked to come again from here, once."""
    async with visiting(settings) as visitor:
        came = [
            (await visitor.get(token=None, **{"Sec-Fetch-Site": site})).text for site in ("cross-site", "same-origin")
        ]
    assert ['http-equiv="refresh"' in text for text in came] == [True, False]


async def test_guessing_is_slow(settings: Settings, aws: None) -> None:
    """After ten wrong tokens a client waits, with the right one too; the answer says for how long."""
    async with visiting(settings) as visitor:
        wrong = [(await visitor.log_in(f"guess {number}")).status_code for number in range(10)]
        locked = await visitor.log_in()
    assert wrong == [401] * 9 + [429]
    assert (locked.status_code, locked.headers["retry-after"]) == (429, "60")


async def test_odd_requests_are_answered(sandbox: Sandbox, settings: Settings, aws: None) -> None:
    """No form, address or method is a server error."""
    async with visiting(settings) as visitor:
        post = visitor.client.post
        assert (await post("/gallery/login", content=b"x" * 10_000)).status_code == 413
        assert (await post("/gallery/login", content=b"\xff\xfe=&&token=%ff%00")).status_code == 401
        assert (await visitor.get("/gallery/login")).status_code == 303
        assert (await visitor.get("/gallery/")).headers["location"] == "/gallery"
        spots = ("x", "9999999999999-x.json~0", "..%2F..%2Fledger.json~0", "9999999999999-%00.json~9", "%ff~1")
        assert {(await visitor.get(f"/gallery/item/{spot}")).status_code for spot in spots} == {404}
        assert (await visitor.get("/gallery/static/..%2Froutes.py")).status_code == 404
        assert "cannot be read" in (await visitor.get("/gallery?after=x&day=soon")).text
        assert (await post("/gallery")).status_code == 405


async def test_every_answer_is_guarded(sandbox: Sandbox, settings: Settings, aws: None) -> None:
    """Each answer, also of what is missing or in static files, says: no sniffing, no referrer, no frame."""
    write_page(sandbox, settings, 1, ["a.jpg"])
    async with visiting(settings) as visitor:
        page = await visitor.get()
        static = re.findall(r'(?:href|src)="(/gallery/static/[^"]+)"', page.text)
        assert len(static) == 3
        for path in ("/gallery", "/gallery/item/x", "/gallery/login", "/gallery/static/none", *static):
            headers = (await visitor.get(path)).headers
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"
        policy = page.headers["content-security-policy"]
        _, video, _ = links(page, "a.jpg")
    assert f"media-src {urlsplit(video).scheme}://{urlsplit(video).netloc};" in policy


async def test_only_our_videos_are_signed(sandbox: Sandbox, settings: Settings, aws: None) -> None:
    """A page that names something else as its video, such as the ledger, gets no link to it."""
    others = ("s3://other-bucket/videos/a.mp4", f"s3://{sandbox.bucket}/jobs/ledger.json", "javascript:alert(1)", "x")
    for number, video in enumerate(others):
        write_page(sandbox, settings, number, ["a.jpg"], video=video)
    async with visiting(settings) as visitor:
        page = await visitor.get()
    assert len(shown(page)) == len(others)
    assert "X-Amz" not in page.text


async def test_a_fault_of_s3_is_told_in_words(settings: Settings, aws: None) -> None:
    """Where S3 does not do what it is asked, the gallery says so, what to do, and no more."""
    async with visiting(settings, bucket="no-such-bucket-here") as visitor:
        answer = await visitor.get()
    assert answer.status_code == 503
    assert "s3://no-such-bucket-here/jobs/recent/ does not exist. Check I2V_BUCKET" in answer.text


async def test_without_a_token_there_is_no_gallery(sandbox: Sandbox, settings: Settings, aws: None) -> None:
    """Off is off: no address of it answers, and none asks for a token."""
    async with visiting(settings, gallery_token=None) as visitor:
        paths = ("/gallery", "/gallery/", "/gallery/login", "/gallery/static/gallery.css", "/gallery/item/x")
        assert {(await visitor.get(path)).status_code for path in paths} == {404}


async def test_another_site_logs_nobody_out(settings: Settings, aws: None) -> None:
    """A form of elsewhere changes nothing; the gallery's own takes the cookie away."""
    async with visiting(settings) as visitor:
        answers = [
            await visitor.client.post("/gallery/logout", headers={"Sec-Fetch-Site": site})
            for site in ("cross-site", "same-origin")
        ]
    assert ["set-cookie" in answer.headers for answer in answers] == [False, True]
