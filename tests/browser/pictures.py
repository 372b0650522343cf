"""Draws the pictures of the live page that the documentation shows: `scripts/test.py`'s environment, then

    python tests/browser/pictures.py docs

Takes four minutes, so that lines of the last minutes are full."""

import sys
import time
from pathlib import Path

from chromium import Chromium
from conftest import Gateway

SECONDS = 250


def main(folder):
    gateway = Gateway("wasm", 6)
    browser = Chromium()
    try:
        page = browser.page(gateway.page, height=720)
        time.sleep(SECONDS)
        page.press("p")
        page.run("document.querySelector('#pick-list summary').click()")
        time.sleep(1)
        for theme in ("light", "dark"):
            page.prefer(prefers_color_scheme=theme)
            time.sleep(0.5)
            page.picture(Path(folder) / f"live-page-{theme}.png")
        page.prefer(prefers_color_scheme="light")
        page.resize(390, 844)
        time.sleep(1.5)
        page.picture(Path(folder) / "live-page-narrow.png")
        page.close()
    finally:
        browser.close()
        gateway.end()


if __name__ == "__main__":
    main(sys.argv[1])
