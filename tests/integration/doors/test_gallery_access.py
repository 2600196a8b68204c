"""Access to the gallery on real sockets: logins, signed links and malformed requests."""

import re
from html import unescape
from urllib.parse import urlsplit

from i2v.settings import Settings
from sandbox import Sandbox
from tests.support.gallery_client import TOKEN, card_links, card_names, open_gallery, write_run_page


async def test_without_the_token_nothing_is_shown(sandbox: Sandbox, settings: Settings, aws: None) -> None:
    """Without the token every URL shows only the login form and sends S3 no request."""
    write_run_page(sandbox, settings, 1, ["secret-name.jpg"])
    async with open_gallery(settings) as client:
        href, *_ = card_links(await client.get(), "secret-name.jpg")
        client.requests.clear()
        for path in ("/gallery", href, "/gallery?folder=x", "/gallery/item/x"):
            for token in (None, "wrong", TOKEN[:-1]):
                response = await client.get(path, token=token)
                assert (response.status_code, response.headers["cache-control"]) in {
                    (401, "no-store"),
                    (429, "no-store"),
                }
                assert "secret-name" not in response.text.replace(href, "")
                assert sandbox.bucket not in response.text
        assert not client.requests


async def test_login_and_logout(sandbox: Sandbox, settings: Settings, aws: None) -> None:
    """Login redirects to the requested page and sets a cookie, and logout deletes it."""
    async with open_gallery(settings) as client:
        login_page = await client.get("/gallery?folder=cats&day=2026-11-22", token=None)
        to = unescape(re.findall(r'name="to" value="([^"]*)"', login_page.text)[0])
        answer = await client.log_in(to=to)
        assert (answer.status_code, answer.headers["location"]) == (303, "/gallery?folder=cats&day=2026-11-22")
        assert TOKEN not in str(answer.headers)
        assert (await client.get(token=None)).status_code == 200
        left = await client.http.post("/gallery/logout")
        assert left.status_code == 303
        assert (await client.get(token=None)).status_code == 401
        assert "Secure" in (await client.log_in(**{"X-Forwarded-Proto": "https"})).headers["set-cookie"]


OTHER_TARGETS = (
    "https://x.example",
    "//x.example",
    "/\\x.example",
    "/gallery.x.example",
    "/gallery?\r\nX: y",
    "/s3",
    "",
)


async def test_login_redirects_only_into_the_gallery(settings: Settings, aws: None) -> None:
    """A forged login form cannot redirect to another site or page."""
    async with open_gallery(settings) as client:
        targets = [(await client.log_in(to=to)).headers["location"] for to in OTHER_TARGETS]
    assert set(targets) == {"/gallery"}


async def test_a_link_from_another_site_keeps_the_login(settings: Settings, aws: None) -> None:
    """A cross-site link is refreshed once, because browsers omit the strict cookie on the first request."""
    async with open_gallery(settings) as client:
        pages = [
            (await client.get(token=None, **{"Sec-Fetch-Site": site})).text for site in ("cross-site", "same-origin")
        ]
    assert ['http-equiv="refresh"' in text for text in pages] == [True, False]


async def test_guessing_is_slowed_down(settings: Settings, aws: None) -> None:
    """From the tenth wrong token on, wrong ones get 429 with Retry-After; the right one is still accepted."""
    async with open_gallery(settings) as client:
        wrong = [await client.log_in(f"guess {number}") for number in range(10)]
        form = await client.get(token=None)
        bearer = await client.get()
        right = await client.log_in()
    assert [answer.status_code for answer in wrong] == [401] * 9 + [429]
    assert wrong[-1].headers["retry-after"] == "60"
    assert (form.status_code, bearer.status_code, right.status_code) == (401, 200, 303)


async def test_malformed_requests_are_rejected(sandbox: Sandbox, settings: Settings, aws: None) -> None:
    """Malformed forms, URLs and methods get 3xx or 4xx, never 5xx."""
    async with open_gallery(settings) as client:
        post = client.http.post
        assert (await post("/gallery/login", content=b"x" * 10_000)).status_code == 413
        assert (await post("/gallery/login", content=b"\xff\xfe=&&token=%ff%00")).status_code == 401
        assert (await client.get("/gallery/login")).status_code == 303
        assert (await client.get("/gallery/")).headers["location"] == "/gallery"
        cursors = ("x", "9999999999999-x.json~0", "..%2F..%2Fledger.json~0", "9999999999999-%00.json~9", "%ff~1")
        assert {(await client.get(f"/gallery/item/{cursor}")).status_code for cursor in cursors} == {404}
        assert (await client.get("/gallery/static/..%2Froutes.py")).status_code == 404
        assert "cannot be read" in (await client.get("/gallery?after=x&day=soon")).text
        assert (await post("/gallery")).status_code == 405


async def test_every_response_has_security_headers(sandbox: Sandbox, settings: Settings, aws: None) -> None:
    """Every response, including errors and static files, forbids sniffing, referrers and frames."""
    write_run_page(sandbox, settings, 1, ["a.jpg"])
    async with open_gallery(settings) as client:
        page = await client.get()
        static = re.findall(r'(?:href|src)="(/gallery/static/[^"]+)"', page.text)
        assert len(static) == 3
        for path in ("/gallery", "/gallery/item/x", "/gallery/login", "/gallery/static/none", *static):
            headers = (await client.get(path)).headers
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"
        policy = page.headers["content-security-policy"]
        _, video, _ = card_links(page, "a.jpg")
    assert f"media-src {urlsplit(video).scheme}://{urlsplit(video).netloc};" in policy


async def test_only_our_videos_are_signed(sandbox: Sandbox, settings: Settings, aws: None) -> None:
    """A run page that names another object as its video, e.g. the ledger, gets no signed link."""
    others = ("s3://other-bucket/videos/a.mp4", f"s3://{sandbox.bucket}/jobs/ledger.json", "javascript:alert(1)", "x")
    for number, video in enumerate(others):
        write_run_page(sandbox, settings, number, ["a.jpg"], video=video)
    async with open_gallery(settings) as client:
        page = await client.get()
    assert len(card_names(page)) == len(others)
    assert "X-Amz" not in page.text


async def test_an_s3_error_is_explained(settings: Settings, aws: None) -> None:
    """If S3 fails, the gallery responds 503 and says what to do."""
    async with open_gallery(settings, bucket="no-such-bucket-here") as client:
        answer = await client.get()
    assert answer.status_code == 503
    assert "s3://no-such-bucket-here/jobs/recent/ does not exist. Check I2V_BUCKET" in answer.text


async def test_without_a_token_there_is_no_gallery(sandbox: Sandbox, settings: Settings, aws: None) -> None:
    """Without a token every gallery URL is 404."""
    async with open_gallery(settings, gallery_token=None) as client:
        paths = ("/gallery", "/gallery/", "/gallery/login", "/gallery/static/gallery.css", "/gallery/item/x")
        assert {(await client.get(path)).status_code for path in paths} == {404}


async def test_another_site_cannot_log_a_user_out(settings: Settings, aws: None) -> None:
    """A cross-site logout keeps the cookie; the gallery's own form deletes it."""
    async with open_gallery(settings) as client:
        responses = [
            await client.http.post("/gallery/logout", headers={"Sec-Fetch-Site": site})
            for site in ("cross-site", "same-origin")
        ]
    assert ["set-cookie" in response.headers for response in responses] == [False, True]
