"""The page in a real browser: an export by clicks and by keys, through mishaps."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import BrowserContext, Page, expect

from amplitude_cohorts_async.testing import CohortsEmulator, faults
from support.chromium import choose

from .conftest import HOSTILE, Serving

pytestmark = pytest.mark.slow

PATIENCE = 30_000
FOCUSED = """() => {
  const element = document.activeElement;
  const {left, top, width, height} = element.getBoundingClientRect();
  const seen = document.elementFromPoint(left + width / 2, top + height / 2);
  const name = element.name || element.id || element.textContent.trim();
  return [name, element.matches(".scroll") || element.contains(seen)];
}"""
SIZES = {"wide": (1280, 900), "narrow": (320, 640)}


@pytest.fixture
def page(context: BrowserContext, serving: Serving) -> Page:
    """The page, opened by the address that was printed."""
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto(serving.url)
    page.get_by_role("checkbox", name="Spring buyers").wait_for()

    return page


def test_the_token_leaves_the_address(page: Page, serving: Serving) -> None:
    """It is in no history and in no picture of the screen."""
    assert f"http://{serving.host}/" == page.url
    assert [] == page.evaluate("Object.keys(localStorage)")
    assert "" == page.evaluate("document.cookie")


def test_click_through_an_export(
    page: Page, service: CohortsEmulator, tmp_path: Path
) -> None:
    """Choose, see the price, export, watch, download."""
    expect(page.get_by_text("500 of 500 exports left")).to_be_visible()
    choose(page, "Spring buyers", "Active last week")
    expect(page.get_by_text("leaves 498 of 500")).to_be_visible()
    page.get_by_role("button", name="Export 2 cohorts").click()
    expect(page.get_by_text("2 exports were started")).to_be_visible()
    expect(page.get_by_text("498 of 500 exports left")).to_be_visible()
    expect(page.get_by_role("checkbox", name="Spring buyers")).not_to_be_checked()

    with page.expect_download() as download:
        page.get_by_role("link", name="Download Spring buyers").click(timeout=PATIENCE)
    file = tmp_path / "download.csv"
    download.value.save_as(file)

    assert "buyers.csv" == download.value.suggested_filename
    assert "ann" in file.read_text()
    assert 2 == service.spent


def test_double_click_spends_one(page: Page, service: CohortsEmulator) -> None:
    """So do a click after "back", and one after a reload."""
    choose(page, "Spring buyers")
    page.get_by_role("button", name="Export 1 cohort").dblclick()
    page.get_by_role("link", name="Download Spring buyers").wait_for()
    page.goto("about:blank")
    page.go_back()
    page.get_by_role("link", name="Download Spring buyers").wait_for()
    page.reload()
    page.get_by_role("link", name="Download Spring buyers").wait_for()

    assert 1 == service.spent


def test_reload_in_the_middle(page: Page, service: CohortsEmulator) -> None:
    """What runs is shown again, and goes on."""
    choose(page, "Spring buyers")
    page.get_by_role("button", name="Export 1 cohort").click()
    page.get_by_text("Running").wait_for()
    page.reload()
    page.get_by_role("link", name="Download Spring buyers").wait_for()

    assert 1 == service.spent


@pytest.mark.posix
def test_server_is_killed_in_the_middle(
    page: Page, serving: Serving, service: CohortsEmulator
) -> None:
    """The page says so, connects again by itself, and the export comes to its file."""
    choose(page, "Spring buyers")
    page.get_by_role("button", name="Export 1 cohort").click()
    page.get_by_text("Running").wait_for()
    serving.end(signal.SIGKILL)
    page.get_by_text("The connection is lost").wait_for()
    serving.start()
    page.get_by_role("link", name="Download Spring buyers").wait_for()
    expect(page.get_by_text("The connection is lost")).to_be_hidden()

    assert 1 == service.spent


def test_first_connect_fails(
    page: Page, serving: Serving, service: CohortsEmulator
) -> None:
    """A stream that could not be opened is tried again, later each time."""
    tries = 3

    def fail() -> None:
        """Let the first ones fail."""
        page.route("**/events", lambda route: route.abort(), times=tries)

    fail()
    choose(page, "Spring buyers")
    page.reload()
    page.get_by_text("The connection is lost").wait_for()
    choose(page, "Spring buyers")
    page.get_by_role("button", name="Export 1 cohort").click()
    page.get_by_role("link", name="Download Spring buyers").wait_for()

    assert 1 == service.spent


def test_server_ends_with_the_page_open(page: Page, serving: Serving) -> None:
    """A stream in a browser does not keep the command."""
    choose(page, "Spring buyers")
    page.get_by_role("button", name="Export 1 cohort").click()
    page.get_by_text("Running").wait_for()

    assert 0 == serving.end(signal.SIGTERM)
    page.get_by_text("The connection is lost").wait_for()


@pytest.mark.posix
def test_another_token_after_a_restart(page: Page, serving: Serving) -> None:
    """The page shows the way in again."""
    choose(page, "Spring buyers")
    page.get_by_role("button", name="Export 1 cohort").click()
    page.get_by_text("Running").wait_for()
    serving.end(signal.SIGKILL)
    serving.environment["AMPLITUDE_SERVE_TOKEN"] = "another token, as long"
    serving.start()
    page.get_by_label("Token").wait_for()
    page.get_by_label("Token").fill("another token, as long")
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("link", name="Download").wait_for()


def test_put_aside(page: Page, service: CohortsEmulator) -> None:
    """Cancelling keeps the token."""
    choose(page, "Spring buyers")
    page.get_by_role("button", name="Export 1 cohort").click()
    page.get_by_role("button", name="Put aside Spring buyers").click()
    expect(page.get_by_text("The export was put aside")).to_be_visible()
    page.get_by_text("Token", exact=True).click()
    expect(page.get_by_text('"request_id"')).to_be_visible()

    assert 1 == service.spent


def test_upload_and_sync(page: Page, service: CohortsEmulator) -> None:
    """A file becomes a cohort, and another one its members, each on a second button."""
    page.get_by_text("Upload a new cohort").click()
    form = page.locator("#write-forms form").first
    form.get_by_label("Name").fill("From the page")
    form.get_by_label("File", exact=True).set_input_files(
        {"name": "ids.txt", "mimeType": "text/plain", "buffer": b"ann\nbob\neve\n"}
    )
    form.get_by_role("button", name="Check the file").dblclick()
    page.get_by_role("button", name="Upload 3 ids").dblclick()
    expect(page.get_by_text("has 3 ids")).to_be_visible()
    expect(page.locator("#result")).to_be_empty()
    expect(page.locator("#writes li")).to_have_count(1)

    page.get_by_text("Make a cohort's members equal").click()
    form = page.locator("#write-forms form").last
    form.get_by_label("Id of the cohort").fill("buyers")
    form.get_by_label("Column").fill("id")
    form.get_by_label("File", exact=True).set_input_files(
        {"name": "a.csv", "mimeType": "text/csv", "buffer": b"id,x\nann,1\neve,2\n"}
    )
    form.get_by_label("Percent").fill("10")
    form.get_by_role("button", name="Compare: spend 1 export").click()
    page.get_by_text("adds 1, removes 1, keeps 1").wait_for()
    expect(page.get_by_text("would remove 1 of the 2 members")).to_be_visible()
    expect(page.get_by_text("499 of 500 exports left")).to_be_visible()
    page.reload()
    page.get_by_label("Type the number of members").fill("1")
    page.get_by_role("button", name="Write: add 1, remove 1").click()
    expect(page.get_by_text("added 1, removed 1, kept 1")).to_be_visible()

    assert {"ann", "eve"} == service.members_of("buyers")
    assert 1 == service.requests("upload")
    assert 1 == service.spent


@pytest.mark.posix
def test_form_of_a_killed_server(page: Page, serving: Serving) -> None:
    """It does nothing, says what to do, and the same file can be sent again."""
    page.get_by_text("Upload a new cohort").click()
    form = page.locator("#write-forms form").first
    form.get_by_label("Name").fill("From the page")
    file = {"name": "ids.txt", "mimeType": "text/plain", "buffer": b"ann\n"}
    form.get_by_label("File", exact=True).set_input_files(file)  # type: ignore[arg-type]
    serving.end(signal.SIGKILL)
    serving.start()
    form.get_by_role("button", name="Check the file").click()
    expect(page.get_by_text("of an earlier run of the command")).to_be_visible()
    page.reload()
    page.get_by_text("Upload a new cohort").click()
    form.get_by_label("Name").fill("From the page")
    form.get_by_label("File", exact=True).set_input_files(file)  # type: ignore[arg-type]
    form.get_by_role("button", name="Check the file").click()
    page.get_by_role("button", name="Upload 1 id").click()
    expect(page.get_by_text("has 1 id")).to_be_visible()


def test_hostile_name(page: Page) -> None:
    """A name is text; the page runs nothing of it."""
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    choose(page, HOSTILE)
    page.get_by_role("button", name="Export 1 cohort").click()
    page.get_by_role("link", name=f"Download {HOSTILE}").wait_for()

    assert [] == dialogs
    assert 0 == page.locator("img").count()


def test_message_can_be_dismissed(page: Page, service: CohortsEmulator) -> None:
    """By its button, also with keys; who did so goes on where they were."""
    choose(page, "Spring buyers")
    page.get_by_role("button", name="Export 1 cohort").click()
    result = page.get_by_role("status").filter(has_text="The export was started")
    expect(result.get_by_role("heading", name="Started")).to_be_visible()
    page.get_by_role("checkbox", name="Active last week").focus()
    result.get_by_role("button", name="Dismiss: Started").focus()
    page.keyboard.press("Enter")

    expect(page.locator(".message:visible")).to_have_count(0)
    expect(page.get_by_role("checkbox", name="Active last week")).to_be_focused()


def test_message_of_a_problem(page: Page, service: CohortsEmulator) -> None:
    """It is an alert in sight, wherever one is; the next action replaces it."""
    service.fail_next("list", faults.refused(403, "no"))
    page.get_by_role("button", name="Read the list again").click()
    problem = page.get_by_role("alert").filter(has_text="403")
    expect(problem.get_by_role("heading", name="Problem: ")).to_be_in_viewport()
    page.mouse.wheel(0, 2_000)
    expect(problem.get_by_role("heading", name="Problem: ")).to_be_in_viewport()

    choose(page, "Spring buyers")
    expect(problem).to_have_count(0)
    service.fail_next("list", faults.refused(403, "no"))
    page.get_by_role("button", name="Read the list again").click()
    expect(problem).to_be_visible()
    page.get_by_role("button", name="Export 1 cohort").click()
    expect(page.get_by_text("The export was started")).to_be_visible()
    expect(problem).to_have_count(0)


def test_no_answer(page: Page, service: CohortsEmulator) -> None:
    """A button that could do nothing says so, and does it when it is pressed again."""
    choose(page, "Spring buyers")
    page.route("**/exports", lambda route: route.abort(), times=1)
    page.get_by_role("button", name="Export 1 cohort").click()
    problem = page.get_by_role("alert").filter(has_text="did not answer")
    expect(problem).to_be_visible()
    assert 0 == service.spent

    page.get_by_role("button", name="Export 1 cohort").click()
    expect(page.get_by_text("The export was started")).to_be_visible()
    expect(problem).to_have_count(0)


@pytest.mark.parametrize("size", SIZES)
def test_cost_stays_in_view(page: Page, service: CohortsEmulator, size: str) -> None:
    """With many cohorts, too; it hides nothing that has the focus, and comes in turn."""
    for number in range(60):
        service.add_cohort(f"c{number}", members=["ann"], name=f"Cohort {number}")
    width, height = SIZES[size]
    page.set_viewport_size({"width": width, "height": height})
    page.get_by_role("button", name="Read the list again").click()
    page.get_by_role("checkbox", name="Cohort 59").wait_for()
    choose(page, "Active last week")
    page.evaluate("document.querySelector('#filter').focus()")
    button = page.get_by_role("button", name="Export 1 cohort")
    expect(button).to_be_in_viewport(ratio=1)
    expect(page.get_by_text("leaves 499 of 500")).to_be_in_viewport(ratio=1)

    reached = []
    for _ in range(80):
        page.keyboard.press("Tab")
        expect(button).to_be_in_viewport(ratio=1)
        name, is_seen = page.evaluate(FOCUSED)
        assert is_seen, f"{name} has the focus, and something is over it"
        reached.append(name)
        if name.startswith("Export 1 cohort"):
            break

    assert ["again", "Export 1 cohort: spend 1"] == reached[-2:]
    assert 63 == reached.count("cohort_id")


def test_bytes_that_come(page: Page, service: CohortsEmulator) -> None:
    """The bar grows with them, and says how long it takes yet."""
    service.add_cohort("large", size=400_000, name="Many users")
    service.fail_next("store", faults.slow(1_500_000))
    page.get_by_role("button", name="Read the list again").click()
    choose(page, "Many users")
    page.get_by_role("button", name="Export 1 cohort").click()
    card = page.get_by_role("listitem").filter(has_text="Many users")
    expect(card.get_by_text("a second, about")).to_be_visible()
    expect(card.get_by_text("400,000 members")).to_be_visible()
    bar = card.get_by_role("progressbar")
    value, most = bar.evaluate("bar => [bar.value, bar.max]")

    assert 0 < value < most
    page.get_by_role("link", name="Download Many users").wait_for()


def test_filter(page: Page) -> None:
    """The list shows what a text is in, and what is chosen."""
    page.get_by_role("checkbox", name="Active last week").check()
    page.get_by_label("Show only").fill("SPRING")

    expect(page.get_by_role("checkbox", name="Spring buyers")).to_be_visible()
    expect(page.get_by_role("checkbox", name="Active last week")).to_be_visible()
    expect(page.get_by_role("checkbox", name=HOSTILE)).to_be_hidden()


def test_by_keyboard_alone(page: Page, service: CohortsEmulator) -> None:
    """Tab, space and Enter are enough."""

    def tab_to(role: str, name: str) -> None:
        """Press Tab until an element has the focus."""
        wanted = page.get_by_role(role, name=name).first  # type: ignore[arg-type]
        for _ in range(40):
            if wanted.evaluate("element => element === document.activeElement"):
                return
            page.keyboard.press("Tab")
        pytest.fail(f"{name} is not reached")

    tab_to("checkbox", "Spring buyers")
    page.keyboard.press("Space")
    page.get_by_role("button", name="Export 1 cohort").wait_for()
    tab_to("button", "Export 1 cohort")
    page.keyboard.press("Enter")
    page.get_by_role("link", name="Download Spring buyers").wait_for()
    tab_to("link", "Download Spring buyers")
    with page.expect_download() as download:
        page.keyboard.press("Enter")

    assert "buyers.csv" == download.value.suggested_filename
    assert 1 == service.spent


@pytest.mark.parametrize(
    "options", [{"color_scheme": "light"}, {"color_scheme": "dark"}]
)
@pytest.mark.parametrize("size", SIZES)
def test_everybody_can_use_it(
    page: Page,
    serving: Serving,
    service: CohortsEmulator,
    size: str,
    options: dict[str, Any],
) -> None:
    """axe finds nothing, and nothing is wider than the window: each state of the page."""
    width, height = SIZES[size]
    page.set_viewport_size({"width": width, "height": height})
    _check(page)
    choose(page, "Spring buyers", HOSTILE)
    _check(page)
    page.get_by_role("button", name="Export 2 cohorts").click()
    page.get_by_role("button", name=f"Put aside {HOSTILE}").click()
    page.get_by_text("Running").first.wait_for()
    _check(page)
    page.get_by_role("link", name="Download Spring buyers").wait_for()
    _check(page)
    service.fail_next("list", faults.refused(403, "no"))
    page.get_by_role("button", name="Read the list again").click()
    page.get_by_role("heading", name="Problem: ").wait_for()
    _check(page)
    for each in page.locator("#write-forms summary").all():
        each.click()
    form = page.locator("#write-forms form").last
    form.get_by_label("Id of the cohort").fill("active")
    file = {"name": "x" * 200, "mimeType": "text/plain", "buffer": b"ann\n"}
    form.get_by_label("File", exact=True).set_input_files(file)  # type: ignore[arg-type]
    form.get_by_role("button", name="Compare").click()
    page.get_by_label("Type the number of members").wait_for()
    for each in page.locator("#write-forms summary").all():
        each.click()
    _check(page)

    page.context.clear_cookies()
    page.goto(f"http://{serving.host}/")
    _check(page)


def _check(page: Page) -> None:
    found = Axe().run(page)
    overflow = page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )

    assert 0 == found.violations_count, found.generate_report()
    assert 0 == overflow
