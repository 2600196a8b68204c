"""Prefect's UI in a real browser: its pages answer each question of docs/monitoring.md."""

from __future__ import annotations

import re

import httpx
import pytest
from playwright.sync_api import Page, expect

from i2v.money import money_text
from tests.support.browser_page import OpenPage, keep_screenshot
from tests.support.ui_world import World

WHOLE = "6 images · images/trips/ · standard 6 s"
JSON = "application/json"
TALL = {"width": 1500, "height": 1000}
TEXT_BESIDE_POSTER = """row => {
  const range = document.createRange();
  range.selectNodeContents(row.cells[1]);
  const text = range.getBoundingClientRect(), poster = row.querySelector("img").getBoundingClientRect();
  return poster.right < text.left && poster.top < text.bottom && text.top < poster.bottom;
}"""
LOADED = "() => document.images.length > 0 && [...document.images].every(img => img.complete && img.naturalWidth > 0)"


@pytest.fixture
def ui(a_world: World, new_visit: OpenPage) -> Page:
    """Open the root page, which redirects to the default UI."""
    page = new_visit(viewport=TALL).page
    page.goto(a_world.prefect.url)
    page.wait_for_url("**/v2/**")
    return page


def go(ui: Page, world: World, path: str) -> None:
    """Open a page of the UI."""
    ui.goto(f"{world.prefect.url}/v2{path}")


def open_artifact(ui: Page, world: World, key: str) -> None:
    """Open the newest artifact with this key, by clicks."""
    go(ui, world, "/artifacts")
    ui.get_by_text(key, exact=True).click()
    ui.wait_for_url(f"**/artifacts/key/{key}*")
    ui.locator("a[href*='/artifacts/artifact/']").first.click()
    ui.wait_for_url("**/artifacts/artifact/**")
    ui.wait_for_selector("table")


def open_run(ui: Page, world: World, tag: str) -> None:
    """Open the run over all images with this tag."""
    go(ui, world, f"/runs?tags={tag}")
    expect(ui.get_by_text(tag, exact=True).first).to_be_visible()
    ui.get_by_role("link", name=WHOLE).last.click()
    ui.wait_for_url("**/runs/flow-run/**")


def test_run_names_and_tags_describe_the_run(ui: Page, a_world: World) -> None:
    """A run is named after its images, and its tags are mode, source and label."""
    go(ui, a_world, "/runs")
    for name in (WHOLE, "1 image · images/odd/lost.jpg · pro 6 s", "spend of the last day"):
        expect(ui.get_by_role("link", name=name).first).to_be_visible()
    for tag in ("autumn", "hand", "standard", "pro"):
        expect(ui.get_by_text(tag, exact=True).first).to_be_visible()
    ui.get_by_role("link", name=WHOLE).last.scroll_into_view_if_needed()
    keep_screenshot(ui, "runs")


def test_the_state_message_is_the_run_summary(ui: Page, a_world: World) -> None:
    """The final message has counts and cost, like the output of the command."""
    open_run(ui, a_world, "autumn")
    ui.get_by_role("tab", name="Details").click()
    summary = a_world.runs["whole"].err.splitlines()[-1]
    assert summary == "5 stored · 1 refused · $0.96"
    expect(ui.get_by_text(summary, exact=True).first).to_be_visible()


def test_tasks_are_named_after_their_image(ui: Page, a_world: World) -> None:
    """The tasks of an image have its name."""
    open_run(ui, a_world, "autumn")
    ui.get_by_role("tab", name="Task Runs").click()
    expect(ui.get_by_text("poll trips/coast/coffee.jpg").first).to_be_visible()


def test_the_run_page_shows_reasons_and_videos(ui: Page, a_world: World) -> None:
    """The run page has the reason of each refused image, and posters with text beside them that link to the videos."""
    open_run(ui, a_world, "autumn")
    ui.get_by_role("tab", name="Artifacts").click()
    ui.get_by_role("link", name="i2v-run").first.click()
    ui.wait_for_url("**/artifacts/key/i2v-run*")
    run = f"(//a[contains(@href, '/runs/flow-run/') and contains(., '{WHOLE}')])[last()]"
    ui.locator(f"{run}/preceding::a[contains(@href, '/artifacts/artifact/')][1]").click()
    ui.wait_for_selector("table")
    expect(ui.get_by_role("row").filter(has_text="too-small.png")).to_contain_text(
        "short side must be more than 300 px"
    )
    ui.wait_for_function(LOADED)
    for links, kind in ((ui.locator("a:has(img)"), "video/mp4"), (ui.get_by_role("link", name="manifest"), JSON)):
        responses = [httpx.get(str(link.get_attribute("href")), trust_env=False) for link in links.all()]
        kinds = {(response.status_code, response.headers["content-type"]) for response in responses}
        assert (len(responses), kinds) == (5, {(200, kind)})
    rows = ui.locator("tr:has(img)").all()
    assert [row.evaluate(TEXT_BESIDE_POSTER) for row in rows] == [True] * 5
    keep_screenshot(ui, "run-page")


def test_the_status_page_shows_open_jobs_and_commands(ui: Page, a_world: World) -> None:
    """The status page has today's spend, open jobs with their age, and a command for each job that needs attention."""
    open_artifact(ui, a_world, "i2v-open")
    expect(ui.get_by_text("spent or reserved").first).to_contain_text(
        f"${money_text(a_world.sandbox.provider.billed_usd)}"
    )
    lost = ui.get_by_role("listitem").filter(has_text="lost.jpg")
    expect(lost.locator("code")).to_have_text(re.compile(r"^i2v jobs resolve [0-9a-f]{12} --adopt TASKID$"))
    broken = ui.get_by_role("listitem").filter(has_text="broken.jpg")
    expect(broken.locator("code")).to_have_text(re.compile(r"--resubmit$"))
    open_row = ui.get_by_role("row").filter(has_text="slow.jpg")
    expect(open_row).to_contain_text(re.compile(r"20\d\d-\d\d-\d\d \d\d:\d\d.*submitted"))
    keep_screenshot(ui, "open-page")


def test_the_spend_page_has_sums_and_a_chart(ui: Page, a_world: World) -> None:
    """The sums are those of the provider, and the UI shows the chart."""
    open_artifact(ui, a_world, "i2v-spend")
    charged = ui.get_by_role("row").filter(has_text="Charged or possibly charged").first
    assert charged.get_by_role("cell").nth(1).inner_text() == f"${money_text(a_world.sandbox.provider.billed_usd)}"
    saved = ui.get_by_role("row").filter(has_text="Saved: attached or cached").first
    assert saved.get_by_role("cell").nth(1).inner_text() == "$0.96"
    ui.wait_for_function(LOADED)
    assert ui.evaluate("document.images[0].naturalWidth") == 880
    keep_screenshot(ui, "spend-page")


def test_the_link_that_the_command_prints_opens_its_run(a_world: World, new_visit: OpenPage) -> None:
    """`In Prefect: …` leads to the page of that run; a link to a run that does not exist shows no name."""
    (link,) = re.findall(r"^In Prefect: (\S+)$", a_world.runs["whole"].err, re.MULTILINE)
    page = new_visit().page
    page.goto(link)
    expect(page.get_by_text(WHOLE).first).to_be_visible()
    page.goto(f"{link[:-12]}{'0' * 12}")
    expect(page.get_by_text(re.compile("not found", re.IGNORECASE)).first).to_be_visible()
