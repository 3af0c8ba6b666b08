"""The page of `nlsr serve` in a real browser, Debian's Chromium. Waits are for what is awaited, never for seconds.

`NLSR_SCREENSHOTS=DIR` keeps a picture of each state.
"""

import io
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="needs the extra serve")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, which CI installs")
CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("needs Debian's chromium", allow_module_level=True)

from tests.extras.server import Server  # noqa: E402 - it needs httpx

CAT = Path(__file__).parents[2] / "examples" / "cat.png"
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
QUIET += ["--disable-sync", "--no-first-run"]
TIMEOUT = 120_000
"""Milliseconds after which nothing is expected any more, on a busy machine."""


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory, model):
    server = Server(tmp_path_factory.mktemp("page"), model)
    yield server
    server.end()
    server.process.stdout.close()


@pytest.fixture
def page(browser, server):
    """The page with the tiny model chosen. No script may fail, and nothing may be asked of another machine."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(TIMEOUT)
    wrong = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda line: wrong.append(line.text) if "Content Security Policy" in line.text else None)
    page.on(
        "request", lambda asked: wrong.append(asked.url) if not asked.url.startswith((server.url, "blob:")) else None
    )
    page.goto(server.url)
    page.locator("#options select[name=model] option[value=tiny]").wait_for(state="attached")
    page.select_option("#options select[name=model]", "tiny")
    yield page
    page.close()
    for job in server.client.get("/api/jobs").json():
        server.client.delete(f"/api/jobs/{job['id']}")
    assert wrong == []


def keep(page, name):
    if folder := os.environ.get("NLSR_SCREENSHOTS"):
        page.screenshot(path=Path(folder, f"{name}.png"), full_page=True)


def enlarge(page):
    """Choose the cat, send it, and wait for the result."""
    page.set_input_files("#files", CAT)
    page.locator("#estimate", has_text="451×300 to 902×600").wait_for()
    page.click("#enlarge")
    page.locator("#queue .done").wait_for()
    page.locator("#caption", has_text="beside 902×600").wait_for()


def screen(page):
    """The canvas as it is seen, once it was drawn."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return Image.open(io.BytesIO(page.locator("#canvas").screenshot())).convert("RGB")


def test_a_picture_is_chosen_enlarged_compared_and_downloaded(page, server):
    page.set_input_files("#files", CAT)
    page.locator("#estimate", has_text="MiB of memory").wait_for()
    keep(page, "chosen")
    page.click("#enlarge")
    page.locator("#queue .done").wait_for()
    page.locator("#caption", has_text="cat.png, 451×300 beside 902×600").wait_for()
    keep(page, "slider")
    middle = screen(page)
    page.locator("#canvas").focus()
    page.keyboard.press("]")
    assert page.input_value("#split") == "55"
    assert screen(page) != middle
    page.keyboard.press("1")
    page.keyboard.press("ArrowLeft")
    keep(page, "pixels")
    page.keyboard.press("d")
    assert page.get_attribute("[data-mode=side]", "aria-pressed") == "true"
    keep(page, "side")
    page.keyboard.press("b")
    assert page.get_attribute("[data-mode=blink]", "aria-pressed") == "true"
    with page.expect_download() as download:
        page.click("#queue .download")
    assert download.value.suggested_filename == "cat_902x600.png"
    with Image.open(download.value.path()) as image:
        assert image.size == (902, 600)


def test_zoom_keeps_the_point_under_the_pointer(page):
    enlarge(page)
    box = page.locator("#canvas").bounding_box()
    at = box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.6
    page.keyboard.press("Escape")
    page.mouse.move(*at)
    page.click("[data-mode=side]")
    page.click("[data-mode=slider]")
    page.evaluate("document.querySelector('#split').value = 0")
    page.locator("#split").dispatch_event("input")
    before = screen(page)
    page.mouse.move(*at)
    page.mouse.wheel(0, -400)
    after = screen(page)
    assert after != before
    x, y = int(box["width"] * 0.3), int(box["height"] * 0.6)
    assert max(abs(a - b) for a, b in zip(before.getpixel((x, y)), after.getpixel((x, y)), strict=True)) < 40


def test_a_click_shows_what_a_pixel_draws_on(page):
    enlarge(page)
    page.click("[data-mode=explain]")
    page.select_option("#pixel select[name=model]", "tiny")
    box = page.locator("#canvas").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.locator("#told", has_text="kmeans attention draws most on").wait_for()
    assert page.input_value("#pixel input[name=x]") == "225"
    assert page.input_value("#pixel input[name=y]") == "150"
    assert page.locator("#sources li").count() == 12
    keep(page, "explain")
    page.select_option("#pixel select[name=layer]", "same_group")
    page.locator("#told", has_text="clusters").wait_for()
    page.fill("#pixel input[name=x]", "451")
    page.eval_on_selector("#pixel", "form => form.requestSubmit()")
    page.locator("#told", has_text="451,150 lies outside the picture of 451x300").wait_for()


def test_the_queue_survives_a_reload_and_a_job_is_cancelled(page, server):
    page.select_option("#options select[name=model]", "lcoan-light")
    page.select_option("#options select[name=size]", "scale")
    page.fill("#options input[name=amount]", "8")
    page.click("summary")
    page.check("#options input[name=ensemble]")
    page.set_input_files("#files", [CAT])
    page.click("#enlarge")
    page.locator("#queue .running").wait_for()
    keep(page, "running")
    page.reload()
    page.locator("#queue .running", has_text="cat.png").wait_for()
    page.click("#queue .remove")
    page.locator("#empty").wait_for()
    assert server.client.get("/api/jobs").json() == []


def test_a_file_that_is_no_picture_is_refused_in_words(page):
    page.set_input_files("#files", {"name": "words.png", "mimeType": "image/png", "buffer": b"no picture"})
    page.click("#enlarge")
    page.locator("#message", has_text="words.png: expected PNG, JPEG").wait_for()
    keep(page, "refused")


def test_the_page_fits_a_phone_in_the_dark(page):
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 360, "height": 780})
    enlarge(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    keep(page, "phone")


def test_everything_that_can_be_used_has_a_name_and_is_reached_by_keyboard(page):
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, canvas, progress")]
        .filter((each) => !each.labels?.length && !each.textContent.trim() && !each.ariaLabel)
        .map((each) => each.outerHTML)"""
    )
    assert unnamed == []
    seen = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        seen.add(
            page.evaluate(
                "document.activeElement.id || document.activeElement.name || document.activeElement.dataset.mode"
            )
        )
    assert {"files", "model", "size", "format", "slider", "explain", "canvas", "split"} <= seen
