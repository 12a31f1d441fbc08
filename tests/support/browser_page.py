"""A tab of a real browser with the page of `denoise-ext serve`."""

from __future__ import annotations

import base64
import io as streams
import os
from pathlib import Path

import numpy as np
from PIL import Image

SCREENSHOTS = os.environ.get("DENOISE_EXT_SCREENSHOTS")
PATIENCE = 60_000  # milliseconds, on a busy machine too


class Page:
    """A tab, and the errors that it logged."""

    def __init__(self, browser, url: str | None = None, **options) -> None:
        """`url`: a service without a token, which is opened."""
        self.context = browser.new_context(
            viewport=options.pop("viewport", {"width": 1200, "height": 760}), **options
        )
        self.context.set_default_timeout(PATIENCE)
        self.errors: list[str] = []
        self.asked: list[str] = []
        self.tab = self.new_tab()
        if url is not None:
            self.tab.goto(url)
            self.wait(self.tab, "#promise", "30 minutes")

    def new_tab(self):
        tab = self.context.new_page()
        tab.on("pageerror", lambda error: self.errors.append(str(error)))
        tab.on("request", lambda request: self.asked.append(request.url))
        return tab

    def wait(self, tab, selector: str, text: str) -> None:
        """Wait for a text. (The page's policy forbids to wait for an expression.)"""
        tab.wait_for_selector(f"{selector}:has-text('{text}')", state="attached")

    def open(self, name: str, body: bytes, tab=None) -> None:
        """Choose a file, and wait until all that is seen is denoised."""
        file = {"name": name, "mimeType": "application/octet-stream", "buffer": body}
        tab = tab or self.tab
        tab.set_input_files("#input", file)
        self.wait(tab, "#file-name", name)
        self.denoised(tab)

    def denoised(self, tab=None) -> None:
        (tab or self.tab).wait_for_selector("#viewer[aria-busy=false]")
        (tab or self.tab).wait_for_timeout(150)  # the next frame has it

    def text(self, selector: str) -> str:
        return self.tab.inner_text(selector)

    def picture(self, tab=None) -> np.ndarray:
        """What the canvas shows of the picture, (H, W, 3), without its surroundings."""
        script = "document.getElementById('canvas').toDataURL()"
        _, _, data = (tab or self.tab).evaluate(script).partition(",")
        pixels = np.asarray(Image.open(streams.BytesIO(base64.b64decode(data))).convert("RGBA"))
        rows, columns = np.where(pixels[..., 3] > 0)
        return pixels[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1, :3]

    def set(self, slider: str, value: float) -> None:
        """Move a slider as a hand does."""
        script = """(slider, value) => {
            slider.value = value;
            slider.dispatchEvent(new Event("input", { bubbles: true }));
        }"""
        self.tab.eval_on_selector(slider, script, value)

    def shoot(self, name: str) -> None:
        if SCREENSHOTS:
            Path(SCREENSHOTS).mkdir(parents=True, exist_ok=True)
            self.tab.screenshot(path=Path(SCREENSHOTS) / f"{name}.png")
