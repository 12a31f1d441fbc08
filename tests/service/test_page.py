"""The page of `denoise-ext serve` in a real browser.

    apt-get install chromium               # or name another one: DENOISE_EXT_BROWSER=/path/to/it
    make test PYTEST_ARGS="-k test_page"

DENOISE_EXT_SCREENSHOTS=FOLDER writes what the browser shows: look at it after a change of the page.
"""

from __future__ import annotations

import os
import re
import shutil
from importlib.resources import files

import numpy as np
import pytest
from browser_page import Page
from live_service import TOKEN, file_of, live_service, noisy_image
from picture_files import whole_file

from denoise_ext import Denoiser, io
from denoise_ext._loader import native_error

pytest.importorskip("starlette", reason="needs the extra web")
pytest.importorskip("uvicorn", reason="needs the extra web")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (extra test)")

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = os.environ.get("DENOISE_EXT_BROWSER") or next(
    filter(None, map(shutil.which, NAMES)), None
)

pytestmark = [
    pytest.mark.skipif(native_error() is not None, reason="needs the native library"),
    pytest.mark.skipif(BROWSER is None, reason=f"needs a browser: one of {', '.join(NAMES)}"),
    pytest.mark.xdist_group("page"),
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        # Containers run tests as root, for whom Chromium has no sandbox.
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        started = driver.chromium.launch(executable_path=BROWSER, args=options)
        yield started
        started.close()


@pytest.fixture
def page(browser, service):
    opened = Page(browser, service.url)
    yield opened
    opened.context.close()
    assert opened.errors == []
    elsewhere = [u for u in opened.asked if not u.startswith((service.url, "blob:", "data:"))]
    assert elsewhere == [], "the page needs nothing from elsewhere"


IMAGE = noisy_image(300, 420)


def close(one: np.ndarray, other: np.ndarray) -> bool:
    """Equal, but for a level where tiles round another way, and for the border's own column."""
    difference = abs(one.astype(int) - other).max(axis=-1)
    return bool((difference <= 1).mean() > 0.99)


def test_upload_shows_before_and_after(page):
    page.shoot("first")
    page.open("waves.png", file_of(IMAGE))
    clean = Denoiser().run(IMAGE)
    assert page.text("#kind") == "White noise"
    assert "420 × 300" in page.text("#file-facts") and "8 bit PNG" in page.text("#file-facts")
    assert float(page.text("#level-value")) == pytest.approx(clean.sigma, abs=0.06)
    shown = page.picture()
    assert shown.shape == IMAGE.shape
    assert close(shown[:, :209], IMAGE[:, :209])
    assert close(shown[:, 211:], clean.image[:, 211:])
    assert "dxnet_s_color" in page.text("#used")
    assert "Denoised" in page.tab.inner_text("#status")
    page.shoot("picture")


def test_the_border_slides_by_pointer_and_by_keys(page):
    page.open("waves.png", file_of(IMAGE))
    clean = Denoiser()(IMAGE)
    divider = page.tab.locator("#divider")
    box, stage = divider.bounding_box(), page.tab.locator("#stage").bounding_box()
    page.tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.tab.mouse.down()
    page.tab.mouse.move(stage["x"] + 5, box["y"] + 200, steps=6)
    page.tab.mouse.up()
    page.denoised()
    assert int(divider.get_attribute("aria-valuenow")) <= 2
    assert close(page.picture(), clean)
    divider.press("End")
    page.denoised()
    assert divider.get_attribute("aria-valuenow") == "100"
    assert "100 % before" in divider.get_attribute("aria-valuetext")
    assert close(page.picture(), IMAGE)
    divider.press("Home")
    page.tab.keyboard.down("b")  # hold: before
    page.denoised()
    assert close(page.picture(), IMAGE)
    page.tab.keyboard.up("b")
    page.denoised()
    assert close(page.picture(), clean)


def test_level_strength_and_network_change_what_is_shown(page):
    page.open("waves.png", file_of(IMAGE))
    page.tab.locator("#divider").press("Home")
    page.set("#level", 40)
    page.denoised()
    assert not page.tab.is_checked("#automatic") and page.text("#level-value") == "40.0"
    strong = Denoiser(sigma=40.0)(IMAGE)
    assert close(page.picture(), strong)
    page.set("#strength", 50)
    page.denoised()
    half = Denoiser(sigma=40.0, strength=0.5)(IMAGE)
    assert close(page.picture(), half)
    page.set("#strength", 100)
    page.tab.select_option("#network", "ffdnet_color_small")
    page.denoised()
    assert close(page.picture(), Denoiser("ffdnet_color_small", sigma=40.0)(IMAGE))
    page.tab.select_option("#network", "dxnet_s_photo")
    page.denoised()
    assert page.tab.is_disabled("#level") and "itself" in page.text("#level-help")
    assert close(page.picture(), Denoiser("dxnet_s_photo")(IMAGE))
    page.tab.select_option("#network", "auto")
    page.tab.check("#automatic")
    page.denoised()
    assert close(page.picture(), Denoiser()(IMAGE))


def test_zoom(page):
    image = noisy_image(900, 1500)
    page.open("large.png", file_of(image))
    assert page.tab.inner_text("#zoom-value") != "100 %"
    page.shoot("large")
    page.tab.click("#zoom-full")
    page.denoised()
    assert page.tab.inner_text("#zoom-value") == "100 %"
    page.tab.locator("#divider").press("Home")
    page.denoised()
    shown = page.picture()
    clean = Denoiser()(image)
    top, left = (900 - shown.shape[0]) // 2, (1500 - shown.shape[1]) // 2
    candidates = [
        clean[y : y + shown.shape[0], x : x + shown.shape[1]]
        for y in (top, top + 1) for x in (left, left + 1)
    ]  # fmt: skip
    assert any(close(shown, one) for one in candidates if one.shape == shown.shape)
    # A new level computes what is seen, in cells of 256 pixels, and no more.
    before = len(page.asked)
    page.set("#level", 30)
    page.denoised()
    parts = [url for url in page.asked[before:] if "sigma=30" in url]
    numbers = [
        {k: int(v) for k, v in re.findall(r"(left|top|width|height)=(\d+)", u)} for u in parts
    ]
    cells = {
        (column, row)
        for n in numbers
        for column in range(n["left"] // 256, -(-(n["left"] + n["width"]) // 256))
        for row in range(n["top"] // 256, -(-(n["top"] + n["height"]) // 256))
    }
    assert len(cells) <= (shown.shape[0] // 256 + 2) * (shown.shape[1] // 256 + 2)
    assert sum(n["width"] * n["height"] for n in numbers) <= len(cells) * 256**2
    page.tab.locator("#stage").press("+")
    assert page.tab.inner_text("#zoom-value") == "150 %"
    page.tab.locator("#stage").press("0")
    page.denoised()
    assert page.tab.inner_text("#zoom-value") != "100 %"


@pytest.mark.rotates()
@pytest.mark.parametrize(
    ("name", "body", "saved"),
    [
        ("deep.tiff", whole_file("TIFF", "rgb uint16"), "deep_clean.tiff"),
        ("photo.JPG", whole_file("JPEG", "rgb uint8"), "photo_clean.JPG"),
        ("wave.png", file_of(IMAGE), "wave_clean.png"),
    ],
    ids=["tiff", "jpeg", "png"],  # not the bodies, which differ from process to process
)
def test_download_in_the_format_of_the_input(page, tmp_path, name, body, saved):
    page.open(name, body)
    page.set("#level", 20)
    page.denoised()
    with page.tab.expect_download() as started:
        page.tab.click("#download")
    assert started.value.suggested_filename == saved
    started.value.save_as(tmp_path / saved)
    before, after = io.read_picture(body), io.read_picture(tmp_path / saved)
    assert after.format == before.format
    assert after.metadata.exif == before.metadata.exif
    assert after.metadata.icc_profile == before.metadata.icc_profile
    if before.format != "JPEG":
        expected = Denoiser(sigma=20.0)(before).frames[0]
        np.testing.assert_array_equal(after.frames[0], expected)
    page.wait(page.tab, "#status", "Saved")


def photograph() -> np.ndarray:
    """(300, 420, 3) with white noise of level 20: sky, a building, water."""
    clean = io.read_image(files("denoise_ext") / "assets" / "kodim21.png")[60:360, 250:670]
    noise = np.random.default_rng(0).normal(0, 20, clean.shape)
    return (clean + noise).clip(0, 255).round().astype(np.uint8)


def test_uncertainty_lies_over_the_result(page):
    image = photograph()
    page.open("tower.png", file_of(image))
    plain = page.picture().astype(int)
    asked = len(page.asked)
    assert not any("uncertainty" in url for url in page.asked)
    page.tab.check("#doubt")
    page.denoised()
    coloured = page.picture().astype(int)
    assert (coloured[:, :209] == plain[:, :209]).all(), "before has no uncertainty"
    change = abs(coloured - plain)[:, 212:].max(axis=-1)
    # Strong where a Denoiser is unsure: means over blocks, as probes are random.
    deviation = Denoiser(uncertainty=4).run(image).uncertainty.mean(axis=-1)[:, 212:]
    blocks = [x[:296, :208].reshape(37, 8, 26, 8).mean((1, 3)) for x in (change, deviation)]
    assert np.corrcoef(blocks[0].ravel(), blocks[1].ravel())[0, 1] > 0.7
    assert "±" in page.text("#doubt-most") and "nine of ten" in page.text("#doubt-help").lower()
    assert "colours" in page.tab.inner_text("#status")
    page.shoot("uncertainty")
    # A new level is another result: its uncertainty is asked for anew.
    parts = [url for url in page.asked[asked:] if "uncertainty=true" in url]
    assert parts and not any("sigma" in url for url in parts)
    page.set("#level", 21)
    page.denoised()
    assert any("sigma=21" in url and "uncertainty=true" in url for url in page.asked)
    page.tab.locator("#stage").press("u")
    page.denoised()
    assert not page.tab.is_checked("#doubt") and page.tab.is_hidden("#doubt-scale")
    page.tab.check("#automatic")
    page.denoised()
    assert close(page.picture(), plain)


def test_a_reason_stands_where_there_is_no_uncertainty(page):
    page.open("tower.png", file_of(photograph()))
    page.tab.locator("#doubt").press("Space")
    page.denoised()
    assert page.tab.is_checked("#doubt") and page.tab.is_visible("#doubt-scale")
    page.set("#level", 45)  # far from what the picture has
    page.denoised()
    assert "45.0" in page.text("#doubt-help") and page.tab.is_hidden("#doubt-scale")
    assert page.tab.is_hidden("#alert")
    page.shoot("no-uncertainty")
    page.tab.select_option("#network", "dxnet_s_photo")
    page.denoised()
    assert "itself" in page.text("#doubt-help")
    page.tab.select_option("#network", "auto")
    page.tab.check("#automatic")
    page.denoised()
    assert page.tab.is_visible("#doubt-scale"), "it comes back with options that fit"


def test_a_bad_file_is_refused_and_the_picture_stays(page):
    file = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no picture"}
    page.tab.set_input_files("#input", file)
    page.tab.wait_for_selector("#alert:not([hidden])")
    assert "notes.txt" in page.text("#alert-text") and "not an image" in page.text("#alert-text")
    assert page.tab.is_visible("#welcome")
    page.shoot("bad")
    page.open("waves.png", file_of(IMAGE))
    assert page.tab.is_hidden("#alert")
    page.tab.set_input_files("#input", file)
    page.tab.wait_for_selector("#alert:not([hidden])")
    assert page.text("#file-name") == "waves.png"
    page.tab.click("#alert-close")
    assert page.tab.is_hidden("#alert")
    assert page.picture().shape == IMAGE.shape


def test_drop_and_paste(page):
    script = """([name, numbers, kind]) => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(numbers)], name, { type: "image/png" }));
        const event = kind === "paste"
            ? new ClipboardEvent("paste", { clipboardData: data, bubbles: true })
            : new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true });
        document.body.dispatchEvent(event);
    }"""
    small = list(file_of(noisy_image(60, 80)))
    page.tab.evaluate(script, ["dropped.png", small, "dragenter"])
    assert page.tab.is_visible("#veil")
    page.tab.evaluate(script, ["dropped.png", small, "drop"])
    page.wait(page.tab, "#file-name", "dropped.png")
    assert page.tab.is_hidden("#veil")
    page.denoised()
    page.tab.evaluate(script, ["pasted.png", small, "paste"])
    page.wait(page.tab, "#file-name", "pasted.png")
    page.denoised()


def test_two_tabs_do_not_mix(page, service):
    other = page.new_tab()
    other.goto(service.url)
    images = noisy_image(200, 260, 1), noisy_image(200, 260, 2)
    page.open("one.png", file_of(images[0]))
    page.open("two.png", file_of(images[1]), other)
    for tab, image in zip((page.tab, other), images, strict=True):
        tab.bring_to_front()
        tab.locator("#divider").press("Home")
        page.denoised(tab)
        assert close(page.picture(tab), Denoiser()(image))


def test_a_picture_that_was_forgotten_is_sent_again(page, service):
    page.open("waves.png", file_of(IMAGE))
    asked = [url for url in page.asked if "/part" in url][-1]
    service.ask("DELETE", "/" + asked.split("/", 3)[3].partition("/part")[0])
    page.set("#level", 33)
    page.tab.wait_for_timeout(300)
    page.denoised()
    page.tab.locator("#divider").press("Home")
    page.denoised()
    assert page.tab.is_hidden("#alert")
    assert page.picture().shape == IMAGE.shape


def test_the_sample(page):
    page.tab.click("#sample")
    page.wait(page.tab, "#file-name", "sample.png")
    page.denoised()
    assert page.text("#kind") == "White noise"


def test_everything_has_a_name_and_is_reached_by_keys(page):
    page.open("waves.png", file_of(IMAGE))
    nameless = page.tab.evaluate(
        """() => [...document.querySelectorAll("button, input, select, [role=slider]")]
            .filter((e) => e.checkVisibility() && !e.ariaLabel && !e.labels?.length
                && !e.textContent.trim())
            .map((e) => e.outerHTML)"""
    )
    assert nameless == []
    reached = set()
    page.tab.evaluate("document.body.focus()")
    for _ in range(30):
        page.tab.keyboard.press("Tab")
        reached.add(page.tab.evaluate("document.activeElement.id"))
    wanted = {"open", "download", "stage", "divider", "zoom-in", "zoom-fit", "level", "automatic",
              "strength", "network", "doubt"}  # fmt: skip
    assert wanted <= reached


@pytest.mark.rotates()
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_every_width_and_scheme(browser, service, scheme, width):
    """Nothing is wider than the screen, and text has the contrast that WCAG 2.2 wants (4.5)."""
    viewport = {"width": width, "height": 800}
    opened = Page(
        browser, service.url, viewport=viewport, color_scheme=scheme, has_touch=width < 500
    )
    opened.shoot(f"first-{scheme}-{width}")
    opened.open("a_file_with_a_long_name_that_must_not_push_the_buttons_away.png", file_of(IMAGE))
    opened.shoot(f"picture-{scheme}-{width}")
    assert opened.tab.evaluate("document.documentElement.scrollWidth") <= width
    for selector in ("#download", "#open", "#divider"):
        box = opened.tab.locator(selector).bounding_box()
        assert box["x"] >= -22 and box["x"] + box["width"] <= width + 22
    contrast = """(selector) => {
        const numbers = (colour) => {
            const canvas = new OffscreenCanvas(1, 1).getContext("2d");
            canvas.fillStyle = colour;
            canvas.fillRect(0, 0, 1, 1);
            return [...canvas.getImageData(0, 0, 1, 1).data];
        };
        const light = (colour) => {
            const [r, g, b] = numbers(colour).slice(0, 3).map((v) => v / 255)
                .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const element = document.querySelector(selector);
        let ground = element;
        const clear = (e) => numbers(getComputedStyle(e).backgroundColor)[3] < 255;
        while (clear(ground)) ground = ground.parentElement;
        const a = light(getComputedStyle(element).color);
        const b = light(getComputedStyle(ground).backgroundColor);
        return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    }"""
    for selector in ("#kind", "#level-help", "#facts dt", "#download", ".ends span", "summary"):
        assert opened.tab.evaluate(contrast, selector) >= 4.5, selector
    assert opened.errors == []
    opened.context.close()


def test_a_token_is_asked_for_once(browser):
    with live_service(DENOISE_EXT_TOKEN=TOKEN) as running:
        opened = Page(browser)
        opened.tab.goto(running.url)
        opened.tab.wait_for_selector("#token-dialog[open]")
        opened.tab.fill("#token", TOKEN)
        opened.tab.keyboard.press("Enter")
        opened.wait(opened.tab, "#promise", "30 minutes")
        opened.open("waves.png", file_of(noisy_image(60, 80)))
        other = opened.new_tab()
        other.goto(f"{running.url}#token={TOKEN}")
        opened.wait(other, "#promise", "30 minutes")
        assert TOKEN not in other.url
        assert not any(TOKEN in url.partition("#")[0] for url in opened.asked)
        opened.context.close()
