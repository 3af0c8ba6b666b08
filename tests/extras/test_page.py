"""The page of `nlsr serve` in a real browser, Debian's Chromium. Waits are for what is awaited, never for seconds.

`NLSR_SCREENSHOTS=DIR` keeps a picture of each state.
"""

import io
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import nlsr

pytest.importorskip("fastapi", reason="needs the extra serve")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, which CI installs")
axe = pytest.importorskip("axe_playwright_python.base", reason="needs axe-playwright-python, which CI installs")
CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("needs Debian's chromium", allow_module_level=True)

from tests.extras.server import Server  # noqa: E402 - it needs httpx

CAT = Path(__file__).parents[2] / "examples" / "cat.png"
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
QUIET += ["--disable-sync", "--no-first-run"]
TIMEOUT = 120_000
"""Milliseconds after which nothing is expected any more, on a busy machine."""
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 780}


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def other(tmp_path_factory, model):
    """Weights beside those of the model, which match otherwise."""
    network, generator = nlsr.load(model), torch.Generator().manual_seed(1)
    for weights in network.parameters():
        weights.data += 0.3 * torch.randn(weights.shape, generator=generator)
    path = tmp_path_factory.mktemp("other") / "other.safetensors"
    nlsr.save_network(path, network)
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory, model, other, plain):
    files = "-m", str(other), "-m", str(plain)
    server = Server(tmp_path_factory.mktemp("page"), model, *files, "--max-jobs", "9")
    yield server
    server.end()
    server.process.stdout.close()


@pytest.fixture
def page(browser, server):
    """The page with the tiny model chosen. No script may fail, and nothing may be asked of another machine."""
    page = browser.new_page(viewport=WIDE)
    page.set_default_timeout(TIMEOUT)
    wrong = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda line: wrong.append(line.text) if "Content Security Policy" in line.text else None)
    page.on(
        "request", lambda asked: wrong.append(asked.url) if not asked.url.startswith((server.url, "blob:")) else None
    )
    page.goto(server.url)
    choose_model(page)
    yield page
    page.close()
    for job in server.client.get("/api/jobs").json():
        server.client.delete(f"/api/jobs/{job['id']}")
    assert wrong == []


def choose_model(page, name="tiny"):
    page.locator(f"#options select[name=model] option[value={name}]").wait_for(state="attached")
    page.select_option("#options select[name=model]", name)


def keep(page, name):
    if folder := os.environ.get("NLSR_SCREENSHOTS"):
        drawn(page)
        page.screenshot(path=Path(folder, f"{name}.png"), full_page=True)


def drawn(page):
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def screen(page):
    """The canvas as it is seen, once it was drawn."""
    drawn(page)
    return np.asarray(Image.open(io.BytesIO(page.locator("#canvas").screenshot())).convert("RGB")).astype(int)


def stripes(width=40, height=30, value=0):
    """A PNG whose result no pixel shares with it."""
    pixels = np.full((height, width, 3), value, np.uint8)
    pixels[:, ::4] = 255 - value
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return payload("stripes.png", file.getvalue())


def payload(name, content):
    return {"name": name, "mimeType": "image/png", "buffer": content}


def enlarge(page, picture=None, becomes="80×60"):
    """Choose a picture, send it, and wait for the result."""
    page.set_input_files("#files", picture or stripes())
    page.locator("#estimate", has_text=f"to {becomes}").wait_for()
    page.click("#enlarge")
    page.locator("#caption", has_text=f"beside {becomes}").wait_for()


def start_long(page):
    """Choose the cat and send it with options that take minutes."""
    choose_model(page, "lcoan-light")
    page.select_option("#options select[name=size]", "scale")
    page.fill("#options input[name=amount]", "8")
    page.click("#options summary")
    page.check("#options input[name=ensemble]")
    page.set_input_files("#files", CAT)
    page.locator("#caption", has_text="cat.png, 451×300, not yet enlarged").wait_for()
    page.click("#enlarge")
    page.locator("#queue .running").wait_for()


def found_by_axe(page, name):
    """What axe-core finds in both colour schemes, at both widths."""
    found = []
    for scheme in ("light", "dark"):
        for viewport in (WIDE, PHONE):
            page.emulate_media(color_scheme=scheme)
            page.set_viewport_size(viewport)
            found += found_now(page, f"{name}, {scheme}, {viewport['width']}")
    keep(page, f"{name}-phone-dark")
    page.emulate_media(color_scheme="light")
    page.set_viewport_size(WIDE)
    keep(page, name)
    return found


def found_now(page, name):
    """What axe-core finds in the page as it is."""
    if not page.evaluate("typeof axe === 'object'"):
        page.evaluate(axe.AXE_SCRIPT)
    drawn(page)
    result = page.evaluate("axe.run({ resultTypes: ['violations'] })")
    assert len(result["passes"]) > 20
    found = [
        (name, each["id"], each["impact"], [node["html"] for node in each["nodes"]]) for each in result["violations"]
    ]
    too_wide = page.evaluate("document.documentElement.scrollWidth > innerWidth")
    return [*found, (name, "has to be scrolled sideways")] if too_wide else found


def test_axe_finds_nothing_in_any_state(page, server):
    found = found_by_axe(page, "empty")
    page.set_input_files("#files", [payload("cat.png", CAT.read_bytes()), payload("words.png", b"no picture")])
    page.locator("#estimate", has_text="MiB of memory").wait_for()
    page.click("#options summary")
    found += found_by_axe(page, "chosen")
    page.click("#enlarge")
    page.locator("#staged .failed", has_text="words.png: expected PNG, JPEG").wait_for()
    page.locator("#queue .done").wait_for()
    page.click("#queue .show")
    page.locator("#caption", has_text="cat.png, 451×300 beside 902×600").wait_for()
    found += found_by_axe(page, "refused")
    for mode in ("side", "blink"):
        page.click(f"[data-mode={mode}]")
        found += found_now(page, mode)
        keep(page, mode)
    page.click("[data-mode=explain]")
    page.select_option("#pixel select[name=model]", "tiny")
    page.select_option("#pixel select[name=beside]", "other")
    ask(page, 189, 128)
    page.locator("#told", has_text="other, pixel 189,128").wait_for()
    found += found_by_axe(page, "explain")
    page.select_option("#pixel select[name=beside]", "plain")
    page.locator("#told", has_text="plain, pixel 189,128: this network has no attention").wait_for()
    found += found_now(page, "no attention")
    assert found == []


def ask(page, x, y):
    page.fill("#pixel input[name=x]", str(x))
    page.fill("#pixel input[name=y]", str(y))
    page.click("#pixel button.main")


# ---- looking


def solid(colour, width=80, height=60):
    file = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(file, "PNG")
    return file.getvalue()


def places(width=40, height=30):
    """A PNG whose colours say where a pixel is."""
    y, x = np.mgrid[:height, :width]
    file = io.BytesIO()
    Image.fromarray(np.stack((x * 6, y * 8, 0 * x), axis=2).astype(np.uint8)).save(file, "PNG")
    return payload("places.png", file.getvalue())


BLUE, RED = "blue", "red"


def seen(page, across, down=0.5):
    """The colour at a place of the canvas, given as parts of its width and height."""
    drawn(page)
    return tuple(
        page.evaluate(
            """([across, down]) => {
                const canvas = document.querySelector("#canvas");
                return [...canvas.getContext("2d")
                    .getImageData(canvas.width * across, canvas.height * down, 1, 1).data].slice(0, 3);
            }""",
            [across, down],
        )
    )


def named(colour):
    return {(0, 0, 255): BLUE, (255, 0, 0): RED}.get(colour, colour)


@pytest.fixture
def compared(page):
    """A blue picture beside a red result."""
    page.route("**/result", lambda route: route.fulfill(body=solid(RED), content_type="image/png"))
    enlarge(page, payload("blue.png", solid(BLUE, 40, 30)))
    page.locator("#canvas").focus()
    return page


def test_the_slider_parts_picture_and_result(compared):
    page = compared
    assert [named(seen(page, place)) for place in (0.3, 0.45, 0.55, 0.7)] == [BLUE, BLUE, RED, RED]
    page.keyboard.press("[")
    page.keyboard.press("[")
    assert named(seen(page, 0.45)) == RED
    box = page.locator("#canvas").bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 0.4 * box["width"], middle)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], middle)
    page.mouse.up()
    assert [named(seen(page, place)) for place in (0.45, 0.55, 0.65)] == [BLUE, BLUE, RED]
    assert page.input_value("#split") == "60"
    page.locator("#split").fill("40")
    assert named(seen(page, 0.45)) == RED


def test_side_by_side_and_blinking(compared):
    page = compared
    page.keyboard.press("d")
    assert page.get_attribute("[data-mode=side]", "aria-pressed") == "true"
    assert [named(seen(page, place)) for place in (0.25, 0.75)] == [BLUE, RED]
    page.keyboard.press("s")
    page.keyboard.press(" ")
    assert [named(seen(page, place)) for place in (0.3, 0.7)] == [BLUE, BLUE]
    page.keyboard.press("b")
    at_middle = """colour => {
        const canvas = document.querySelector("#canvas");
        const [red, , blue] = canvas.getContext("2d").getImageData(canvas.width / 2, canvas.height / 2, 1, 1).data;
        return colour === "red" ? red === 255 && blue === 0 : blue === 255 && red === 0;
    }"""
    for colour in (RED, BLUE, RED):
        page.wait_for_function(at_middle, arg=colour)
    page.emulate_media(reduced_motion="reduce")
    page.keyboard.press("b")
    assert named(seen(page, 0.5)) == RED
    page.keyboard.press(" ")
    assert named(seen(page, 0.5)) == BLUE


def test_zoom_keeps_the_point_under_the_pointer_and_dragging_moves_it(page):
    page.set_input_files("#files", places())
    page.locator("#caption", has_text="places.png, 40×30, not yet enlarged").wait_for()
    box = page.locator("#canvas").bounding_box()
    before = seen(page, 0.4, 0.6)
    page.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + 0.6 * box["height"])
    zoom = page.text_content("#zoom")
    page.mouse.wheel(0, -400)
    page.wait_for_function("zoom => document.querySelector('#zoom').textContent !== zoom", arg=zoom)
    at_pointer = seen(page, 0.4, 0.6)
    assert max(abs(a - b) for a, b in zip(before, at_pointer, strict=True)) <= 8
    assert seen(page, 0.9, 0.9) != (43, 45, 47)  # what lies beyond a picture that is seen whole
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.5 * box["height"])
    page.mouse.up()
    moved = seen(page, 0.6, 0.5)
    assert max(abs(a - b) for a, b in zip(at_pointer, moved, strict=True)) <= 8
    page.click("#actual")
    assert page.text_content("#zoom") == "100 %"
    page.locator("#canvas").focus()
    page.keyboard.press("+")
    assert page.text_content("#zoom") == "140 %"
    page.keyboard.press("0")
    assert page.text_content("#zoom") == zoom


def test_full_screen_is_entered_and_left(compared):
    page = compared
    page.click("#full")
    page.wait_for_function("() => document.fullscreenElement?.id === 'viewer'")
    page.locator("#full", has_text="Leave full screen").wait_for()
    assert page.locator("#canvas").bounding_box()["height"] > 0.7 * page.evaluate("innerHeight")
    keep(page, "full-screen")
    assert found_now(page, "full screen") == []
    page.locator("#canvas").focus()
    page.keyboard.press("f")
    page.wait_for_function("() => document.fullscreenElement === null")


# ---- choosing, sending, keeping


def test_pictures_are_pasted_and_dropped(page):
    content = list(solid(BLUE))
    give = """([kind, name, content]) => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(content)], name, { type: "image/png" }));
        const event = kind === "paste" ? new ClipboardEvent(kind, { clipboardData: data, bubbles: true })
            : new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true });
        document.querySelector("h1").dispatchEvent(event);
        return event.defaultPrevented;
    }"""
    page.evaluate(give, ["paste", "pasted.png", content])
    page.locator("#caption", has_text="pasted.png, 80×60, not yet enlarged").wait_for()
    assert page.evaluate(give, ["dragover", "", []])
    keep(page, "dragging")
    assert found_now(page, "dragging") == []
    assert page.evaluate(give, ["drop", "dropped.png", content])  # the browser would leave the page
    page.locator("#caption", has_text="dropped.png, 80×60, not yet enlarged").wait_for()
    page.locator("#estimate", has_text="80×60 to 160×120 and 1 more").wait_for()
    assert page.locator("body.over").count() == 0
    page.click("#staged li:nth-child(2) button:has-text('Remove')")
    page.locator("#caption", has_text="Choose a picture").wait_for()
    assert page.locator("#staged li").count() == 1
    page.evaluate("dispatchEvent(new ClipboardEvent('paste', { clipboardData: new DataTransfer() }))")  # words
    assert page.locator("#staged li").count() == 1


def test_results_are_downloaded_one_by_one_and_together(page):
    page.set_input_files("#files", [stripes(), stripes(20, 16)])
    page.locator("#staged li").nth(1).wait_for()
    page.click("#enlarge")
    page.locator("#queue .done").nth(1).wait_for()
    with page.expect_download() as one:
        page.click("#queue li:nth-child(1) .download")
    assert one.value.suggested_filename == "stripes_80x60.png"
    with Image.open(one.value.path()) as image:
        assert image.size == (80, 60)
    with page.expect_download() as together:
        page.click("#download-all")
    assert together.value.suggested_filename == "nlsr.zip"
    with zipfile.ZipFile(together.value.path()) as archive:
        assert archive.namelist() == ["stripes_80x60.png", "stripes_40x32.png"]
        assert archive.testzip() is None
    page.click("#clear")
    page.locator("#empty").wait_for()


def test_the_options_are_sent(page, server):
    page.select_option("#options select[name=size]", "width")
    page.fill("#options input[name=amount]", "100")
    page.select_option("#options select[name=format]", "webp")
    page.click("#options summary")
    page.fill("#options input[name=quality]", "70")
    page.check("#options input[name=strip]")
    enlarge(page, becomes="100×75")
    (job,) = server.client.get("/api/jobs").json()
    assert job["options"] == {"model": "tiny", "width": 100, "format": "webp", "quality": 70, "strip": True}
    assert job["result"]["name"] == "stripes_100x75.webp"


def test_what_is_in_view_is_previewed_before_the_whole_is_computed(page):
    asked = []
    page.on("request", lambda request: asked.append(request) if request.url.endswith("/api/upscale") else None)
    page.set_input_files("#files", CAT)
    page.locator("#caption", has_text="cat.png, 451×300, not yet enlarged").wait_for()
    page.click("#preview")
    page.locator("#caption", has_text="The framed 192×192 pixels as they will be").wait_for()
    assert seen(page, 0.25) != seen(page, 0.75)
    keep(page, "preview")
    assert found_now(page, "preview") == []
    page.click("#actual")
    for _ in range(5):
        page.click("#in")
    page.click("#preview")
    page.wait_for_function("() => /framed 1?\\d\\d×1?\\d\\d /.test(document.querySelector('#caption').textContent)")
    assert len(asked) == 2
    page.route("**/api/upscale", lambda route: None)  # which takes for ever
    page.click("#preview")
    page.locator("#preview", has_text="Stop the preview").click()
    page.locator("#preview", has_text="Preview this part").wait_for()
    assert page.text_content("#message") == ""


def test_progress_moves_within_a_tile_the_queue_survives_a_reload_and_a_job_is_cancelled(page, server):
    start_long(page)
    (job,) = server.client.get("/api/jobs").json()
    assert job["estimate"]["tiles"] == 1
    page.wait_for_function("() => document.querySelector('#queue progress').value > 0")
    page.locator("#queue .running .state", has_text="left").wait_for()
    found = found_now(page, "running")
    keep(page, "running")
    page.reload()
    page.locator("#queue .running", has_text="cat.png").wait_for()
    page.click("#queue .show")
    page.locator("#caption", has_text="cat.png, 451×300").wait_for()
    page.click("#queue .remove")
    page.locator("#empty").wait_for()
    page.locator("#caption", has_text="Choose a picture").wait_for()
    assert server.client.get("/api/jobs").json() == []
    assert found == []


def test_what_is_refused_stays_with_the_reason_and_the_others_are_sent(page, server):
    page.set_input_files("#files", [payload("words.png", b"no picture"), stripes()])
    page.locator("#staged li").nth(1).wait_for()
    page.click("#enlarge")
    page.locator("#staged .failed", has_text="words.png: expected PNG, JPEG").wait_for()
    page.locator("#queue .done", has_text="stripes.png").wait_for()
    assert page.locator("#staged li").count() == 1
    page.select_option("#options select[name=size]", "scale")
    page.fill("#options input[name=amount]", "17")
    page.set_input_files("#files", stripes())
    page.locator("#estimate", has_text="--scale 17.0: expected a number above 0 and up to 16").wait_for()
    for _ in range(9):
        server.send(stripes()["buffer"], to="/api/jobs")
    page.click("#enlarge")
    page.locator("#message", has_text="expected at most 9 jobs of one address").wait_for()
    keep(page, "full-queue")
    assert found_now(page, "full queue") == []


def test_the_page_waits_for_a_server_that_is_away(page):
    page.route("**/api/events", lambda route: route.abort())
    page.reload()
    page.locator("#away", has_text="The server does not answer").wait_for()
    assert found_now(page, "away") == []
    page.unroute("**/api/events")
    page.wait_for_function("() => document.querySelector('#away').textContent === ''")


def test_a_token_in_the_address_is_used_and_does_not_stay_there(browser, model, tmp_path):
    server = Server(tmp_path, model, "--token", "0123456789abcdef")
    page = browser.new_page()
    page.set_default_timeout(TIMEOUT)
    page.goto(server.url)
    page.locator("#message", has_text="Open the address that the server printed").wait_for()
    page.goto(f"{server.url}/#token=0123456789abcdef")
    page.reload()
    choose_model(page)
    assert page.url == f"{server.url}/"
    enlarge(page)
    with page.expect_download() as download:
        page.click("#queue .download")
    assert download.value.suggested_filename == "stripes_80x60.png"
    page.close()
    server.end()
    server.process.stdout.close()


# ---- the explorer


@pytest.fixture
def explored(page):
    """The cat, of whose pixels the tiny model is asked."""
    page.set_input_files("#files", CAT)
    page.locator("#caption", has_text="cat.png, 451×300, not yet enlarged").wait_for()
    page.click("[data-mode=explain]")
    page.select_option("#pixel select[name=model]", "tiny")
    return page


def point(page, across, down):
    """The place on the page that is at parts of the canvas's width and height."""
    box = page.locator("#canvas").bounding_box()
    return box["x"] + across * box["width"], box["y"] + down * box["height"]


def answers(page):
    return [text.partition(":")[0] for text in page.text_content("#told").split(" — ")]


def test_a_click_shows_what_a_pixel_draws_on(explored):
    page = explored
    before = screen(page)
    page.mouse.click(*point(page, 0.5, 0.5))
    page.locator("#told", has_text="tiny, pixel 225,150: kmeans attention draws most on").wait_for()
    assert [page.input_value(f"#pixel input[name={name}]") for name in "xy"] == ["225", "150"]
    assert page.locator("#sources li").count() == 12
    heat = screen(page)
    assert abs(heat - before).max() > 50
    page.select_option("#pixel select[name=layer]", "same_group")
    page.wait_for_function("() => document.querySelector('#told').textContent.includes('clusters')")
    assert abs(screen(page) - heat).max() > 50
    page.select_option("#pixel select[name=layer]", "attribution")
    page.locator("#told", has_text="local attribution, diffusion index").wait_for()
    keep(page, "attribution")
    ask(page, 451, 150)
    page.locator("#told", has_text="451,150 lies outside the picture of 451x300").wait_for()


def test_the_pixel_under_the_pointer_is_explained_until_one_is_clicked(explored):
    page = explored
    for across, down, pixel in ((0.25, 0.25, "112,"), (0.75, 0.6, "338,")):
        page.mouse.move(*point(page, across, down))
        page.locator("#told", has_text=f"tiny, pixel {pixel}").wait_for()
    assert page.get_attribute("#follow", "aria-pressed") == "true"
    page.mouse.click(*point(page, 0.5, 0.5))
    page.locator("#told", has_text="tiny, pixel 225,150").wait_for()
    assert page.get_attribute("#follow", "aria-pressed") == "false"
    page.mouse.move(*point(page, 0.25, 0.25))
    drawn(page)
    assert page.input_value("#pixel input[name=x]") == "225"
    page.click("#follow")
    page.mouse.move(*point(page, 0.3, 0.25))
    page.locator("#told", has_text="tiny, pixel 135,").wait_for()


def test_two_models_show_their_sources_of_the_same_pixel(explored):
    page = explored
    page.select_option("#pixel select[name=beside]", "other")
    ask(page, 60, 40)
    page.locator("#told", has_text="other, pixel 60,40").wait_for()
    assert answers(page) == ["tiny, pixel 60,40", "other, pixel 60,40"]
    lists = [page.locator("#sources section").nth(half).inner_text() for half in (0, 1)]
    assert [text.split("\n")[0].strip() for text in lists] == ["tiny: pixel 60,40", "other: pixel 60,40"]
    assert [page.locator(f"#sources section:nth-child({half}) li").count() for half in (1, 2)] == [12, 12]
    assert lists[0].split("\n")[1:] != lists[1].split("\n")[1:]
    shown = screen(page)
    middle = shown.shape[1] // 2
    left, right = shown[:, : middle - 4], shown[:, -(middle - 4) :]
    assert abs(left - right).max() > 100  # two maps over one picture
    page.select_option("#pixel select[name=beside]", "")
    page.wait_for_function("() => document.querySelectorAll('#sources section').length === 1")


def test_a_network_without_attention_says_so_and_offers_what_can_be_looked_at(explored, server):
    page, offered = explored, server.client.get("/api/models").json()["explained"]
    named = page.locator("#pixel select[name=model] option[value=plain]").text_content()
    assert named == "plain (no attention)"
    page.select_option("#pixel select[name=model]", "plain")
    ask(page, 60, 40)
    page.locator("#told", has_text="plain, pixel 60,40: this network has no attention").wait_for()
    assert page.locator("#sources li").count() == 0
    keep(page, "no-attention")
    page.click("#sources button:has-text('Show local attribution')")
    page.locator("#told", has_text="plain, pixel 60,40: local attribution, diffusion index").wait_for()
    page.select_option("#pixel select[name=layer]", "heat")
    page.click(f"#sources button:has-text('Look into {offered}')")
    page.locator("#told", has_text=f"{offered}, pixel 60,40: kmeans attention draws most on").wait_for()
    assert page.locator("#sources li").count() == 12


def test_the_explorer_is_used_by_keyboard(explored):
    page = explored
    page.locator("#canvas").focus()
    page.keyboard.press("Shift+ArrowRight")
    page.locator("#told", has_text="tiny, pixel 226,150").wait_for()
    page.keyboard.press("Shift+ArrowUp")
    page.locator("#told", has_text="tiny, pixel 226,149").wait_for()
    source = page.locator("#sources button").nth(5)
    place = source.inner_text().partition(":")[0].strip()
    source.focus()
    page.keyboard.press("Enter")
    page.locator("#told", has_text=f"tiny, pixel {place}").wait_for()
    assert page.evaluate("document.activeElement.closest('#sources') !== null")


def test_a_picture_that_the_server_forgot_is_sent_again(explored):
    page = explored
    ask(page, 60, 40)
    page.locator("#told", has_text="tiny, pixel 60,40").wait_for()
    gone = '{"status": 404, "detail": "this picture is not in memory any more; send it again"}'
    page.route("**/api/explain", lambda route: route.fulfill(status=404, body=gone), times=1)
    ask(page, 61, 40)
    page.locator("#told", has_text="tiny, pixel 61,40").wait_for()


def test_everything_that_can_be_used_is_reached_by_keyboard(page):
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(
                "document.activeElement.id || document.activeElement.name || document.activeElement.dataset.mode"
            )
        )
    usable = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, [tabindex]")]
            .filter((each) => each.checkVisibility() && !each.disabled)
            .map((each) => each.id || each.name || each.dataset.mode)"""
    )
    assert len(usable) > 12
    assert set(usable) <= reached
