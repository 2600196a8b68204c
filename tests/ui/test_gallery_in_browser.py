"""The gallery in a real browser: what a person sees and can do by mouse, keyboard and touch."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from playwright.sync_api import Page, expect

from tests.support.browser_page import PHONE, OpenPage, Visit, keep_screenshot
from tests.support.ui_world import HOSTILE, World

ENTER = Callable[..., Visit]
PLAYS = "video => video.readyState >= 2 && video.currentTime > 0"
LOADED = "() => [...document.querySelectorAll('[data-poster]')].every(img => img.complete && img.naturalWidth > 0)"


def names(page: Page) -> list[str]:
    """Return the names of the images shown, in order."""
    return [str(card.get_attribute("data-name")) for card in page.locator("#results .card").all()]


def expect_playing(page: Page, selector: str) -> None:
    """Wait until this video plays."""
    page.wait_for_function(f"() => {{ const v = document.querySelector({selector!r}); return v && ({PLAYS})(v) }}")


def test_a_wrong_token_shows_no_image(a_world: World, new_visit: OpenPage) -> None:
    """The login page says that the token is wrong."""
    page = new_visit().page
    page.goto(f"{a_world.door.url}/gallery")
    page.fill("#token", "guessed")
    page.click("#login button")
    expect(page.locator("#wrong")).to_contain_text("Wrong token")
    assert page.locator("img, video, .card").count() == 0


def test_posters_load_and_videos_play_on_hover(gallery: ENTER) -> None:
    """Every stored video has a poster, plays while hovered, and a click opens its details."""
    page = gallery().page
    page.keyboard.press("End")
    for poster in page.locator("[data-poster]").all():
        poster.scroll_into_view_if_needed()
    page.wait_for_function(LOADED)
    assert page.locator("[data-poster]").count() == 6

    page.evaluate("scrollTo(0, 0)")
    card = page.locator(".card[data-name='trips/coast/coffee.jpg'] .open")
    card.hover()
    expect_playing(page, ".preview.on")
    keep_screenshot(page, "gallery")
    page.mouse.move(0, 0)
    expect(page.locator(".preview")).to_have_count(0)

    card.click()
    expect_playing(page, "dialog #player")
    expect(page.locator("dialog [data-fact=cost]")).to_contain_text("$0.192")
    expect(page.locator("dialog [data-prompt]")).to_contain_text("steam")
    expect(page.locator("dialog [data-fact='task id'] code")).not_to_be_empty()
    keep_screenshot(page, "gallery-details")


def test_unsuccessful_images_show_reason_and_command(gallery: ENTER) -> None:
    """Refused, failed and unknown images show why, and the command that resolves them."""
    page = gallery().page
    expected = {
        "trips/cats/too-small.png": ("short side must be more than 300 px", "i2v run s3://photographs/images/trips/"),
        "odd/broken.jpg": ("the model gave up", "--resubmit"),
        "odd/lost.jpg": ("got no answer", "--adopt TASKID"),
    }
    for name, (reason, command) in expected.items():
        card = page.locator(f".card[data-name='{name}']").first
        expect(card.locator(".reason")).to_contain_text(reason)
        expect(card.locator("[data-command]").last).to_contain_text(command)


def test_filters_narrow_the_results(gallery: ENTER) -> None:
    """Each filter shows only matches, is part of the URL, and can be cleared."""
    page = gallery().page
    page.select_option("#filter-outcome", "unknown")
    page.click("#filter-go")
    expect(page.locator("#results .card")).to_have_count(1)
    assert (names(page), "outcome=unknown" in page.url) == (["odd/lost.jpg"], True)
    page.click("#filter-clear")

    page.fill("#filter-folder", "trips/space")
    page.keyboard.press("Enter")
    expect(page.locator("#results .card")).to_have_count(2)
    assert sorted(names(page)) == ["trips/space/deep-field.jpg", "trips/space/rocket.jpg"]
    page.select_option("#filter-mode", "pro")
    page.click("#filter-go")
    expect(page.locator("#empty")).to_contain_text("No matches")

    page.click("#empty a")
    today = datetime.now(UTC).date()
    page.fill("#filter-day", str(today - timedelta(days=3)))
    page.click("#filter-go")
    expect(page.locator("#empty")).to_contain_text("No matches")
    assert page.input_value("#filter-day") == str(today - timedelta(days=3))


def test_the_gallery_works_by_keyboard(gallery: ENTER) -> None:
    """Tab plays a video, Enter opens it, arrows move between videos, Escape returns to the same card."""
    page = gallery("/gallery?outcome=stored").page
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('[data-video]')"):
            break
    assert page.evaluate("document.activeElement.matches(':focus-visible')")
    expect_playing(page, ".preview.on")
    page.keyboard.press("Enter")
    expect_playing(page, "dialog #player")
    first = page.inner_text("dialog h1")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("before => document.querySelector('dialog h1').innerText !== before", arg=first)
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("before => document.querySelector('dialog h1').innerText === before", arg=first)
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_be_hidden()
    assert page.evaluate("document.activeElement.closest('.card').id") == "card-1"


def test_the_gallery_fits_a_phone(gallery: ENTER) -> None:
    """At 375 px nothing is cut off or scrolls sideways, touch targets are large enough, and a tap plays."""
    page = gallery("/gallery?outcome=stored", viewport=PHONE, has_touch=True, is_mobile=True).page
    page.wait_for_selector("#results")
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    heights = page.evaluate("[...document.querySelectorAll('button, input, select')].filter(e => e.offsetParent)"
                            ".map(e => e.getBoundingClientRect().height)")  # fmt: skip
    assert min(heights) >= 40
    page.locator(".open").first.tap()
    expect_playing(page, "dialog #player")
    assert page.evaluate("document.querySelector('dialog').scrollWidth") <= PHONE["width"]
    page.click("#details-close")
    page.evaluate("scrollTo(0, 0)")
    page.locator("[data-poster]").first.scroll_into_view_if_needed()
    keep_screenshot(page, "gallery-phone")


def test_the_gallery_works_without_javascript(gallery: ENTER) -> None:
    """Without scripts, links, forms and the browser's own player do the same."""
    page = gallery(java_script_enabled=False).page
    page.select_option("#filter-outcome", "stored")
    page.click("#filter-go")
    page.locator(".open").first.click()
    expect(page.locator("video#player")).to_have_attribute("controls", "")
    page.click("#back")
    page.click("#logout button")
    expect(page.locator("#login")).to_be_visible()


def test_a_hostile_name_is_shown_literally(gallery: ENTER) -> None:
    """A name that looks like HTML and script is text on its card and in its details."""
    visit = gallery("/gallery?folder=odd&outcome=stored")
    expect(visit.page.locator(".card .file")).to_have_text(HOSTILE)
    visit.page.locator(".open").click()
    expect_playing(visit.page, "dialog #player")
    expect(visit.page.locator("dialog h1 .file")).to_have_text(HOSTILE)
    assert visit.page.locator("main img[src='x'], dialog img[src='x']").count() == 0
