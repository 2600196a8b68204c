"""The gallery in a real browser: what a person sees, hears of and can do, by mouse, keyboard and thumb."""

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
    """The images in the gallery, in order."""
    return [str(card.get_attribute("data-name")) for card in page.locator("#results .card").all()]


def plays(page: Page, selector: str) -> None:
    """Wait until this video moves."""
    page.wait_for_function(f"() => {{ const v = document.querySelector({selector!r}); return v && ({PLAYS})(v) }}")


def test_a_wrong_token_opens_nothing(a_world: World, new_visit: OpenPage) -> None:
    """Who does not know the token is told so, and sees no image."""
    page = new_visit().page
    page.goto(f"{a_world.door.url}/gallery")
    page.fill("#token", "guessed")
    page.click("#login button")
    expect(page.locator("#wrong")).to_contain_text("Wrong token")
    assert page.locator("img, video, .card").count() == 0


def test_posters_load_and_videos_play_under_the_mouse(gallery: ENTER) -> None:
    """Every stored video has its poster, one plays while the mouse is on it, and a click shows all that is known."""
    page = gallery().page
    page.keyboard.press("End")
    for poster in page.locator("[data-poster]").all():
        poster.scroll_into_view_if_needed()
    page.wait_for_function(LOADED)
    assert page.locator("[data-poster]").count() == 6

    page.evaluate("scrollTo(0, 0)")
    card = page.locator(".card[data-name='trips/coast/coffee.jpg'] .open")
    card.hover()
    plays(page, ".preview.on")
    keep_screenshot(page, "gallery")
    page.mouse.move(0, 0)
    expect(page.locator(".preview")).to_have_count(0)

    card.click()
    plays(page, "dialog #player")
    expect(page.locator("dialog [data-fact=cost]")).to_contain_text("$0.192")
    expect(page.locator("dialog [data-prompt]")).to_contain_text("steam")
    expect(page.locator("dialog [data-fact='task id'] code")).not_to_be_empty()
    keep_screenshot(page, "gallery-details")


def test_what_did_not_work_says_why_and_what_to_type(gallery: ENTER) -> None:
    """Refused, failed and unknown images have their reason and the command beside them."""
    page = gallery().page
    told = {
        "trips/cats/too-small.png": ("short side must be more than 300 px", "i2v run s3://photographs/images/trips/"),
        "odd/broken.jpg": ("the model gave up", "--resubmit"),
        "odd/lost.jpg": ("It may have been paid", "--adopt TASKID"),
    }
    for name, (reason, command) in told.items():
        card = page.locator(f".card[data-name='{name}']").first
        expect(card.locator(".reason")).to_contain_text(reason)
        expect(card.locator("[data-command]").last).to_contain_text(command)


def test_filters_narrow_what_is_shown(gallery: ENTER) -> None:
    """Each filter leaves what fits, stands in the address, and can be taken away."""
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


def test_it_works_by_keyboard_alone(gallery: ENTER) -> None:
    """Tab leads to a video and plays it, Enter opens it, arrows lead on, Escape leads back to where one was."""
    page = gallery("/gallery?outcome=stored").page
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('[data-video]')"):
            break
    assert page.evaluate("document.activeElement.matches(':focus-visible')")
    plays(page, ".preview.on")
    page.keyboard.press("Enter")
    plays(page, "dialog #player")
    first = page.inner_text("dialog h1")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("before => document.querySelector('dialog h1').innerText !== before", arg=first)
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("before => document.querySelector('dialog h1').innerText === before", arg=first)
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_be_hidden()
    assert page.evaluate("document.activeElement.closest('.card').id") == "card-1"


def test_it_fits_a_phone(gallery: ENTER) -> None:
    """At 375 px nothing is cut or scrolls sideways, what is to be touched is large enough, and a tap plays."""
    page = gallery("/gallery?outcome=stored", viewport=PHONE, has_touch=True, is_mobile=True).page
    page.wait_for_selector("#results")
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    heights = page.evaluate("[...document.querySelectorAll('button, input, select')].filter(e => e.offsetParent)"
                            ".map(e => e.getBoundingClientRect().height)")  # fmt: skip
    assert min(heights) >= 40
    page.locator(".open").first.tap()
    plays(page, "dialog #player")
    assert page.evaluate("document.querySelector('dialog').scrollWidth") <= PHONE["width"]
    page.click("#details-close")
    page.evaluate("scrollTo(0, 0)")
    page.locator("[data-poster]").first.scroll_into_view_if_needed()
    keep_screenshot(page, "gallery-phone")


def test_it_works_without_scripts(gallery: ENTER) -> None:
    """Where scripts are off, links, forms and the browser's own player do the same."""
    page = gallery(java_script_enabled=False).page
    page.select_option("#filter-outcome", "stored")
    page.click("#filter-go")
    page.locator(".open").first.click()
    expect(page.locator("video#player")).to_have_attribute("controls", "")
    page.click("#back")
    page.click("#logout button")
    expect(page.locator("#login")).to_be_visible()


def test_a_hostile_name_is_a_name(gallery: ENTER) -> None:
    """An image named like HTML and script is shown letter by letter, on its card and in its details."""
    visit = gallery("/gallery?folder=odd&outcome=stored")
    expect(visit.page.locator(".card .file")).to_have_text(HOSTILE)
    visit.page.locator(".open").click()
    plays(visit.page, "dialog #player")
    expect(visit.page.locator("dialog h1 .file")).to_have_text(HOSTILE)
    assert visit.page.locator("main img[src='x'], dialog img[src='x']").count() == 0
