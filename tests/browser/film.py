"""Makes the README's film, in which the sliders of Attack and then Features move: `python
tests/browser/film.py [FILE]`, by default docs/film.webp.

It starts its own app with an empty folder of runs, so the film shows only what is shipped.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

sys.path.insert(0, str(Path(__file__).parent))
from conftest import ARGUMENTS, REPOSITORY, Server, chromium, wait_until_settled

SIZE = (960, 540)
# How many milliseconds a picture is shown while the slider moves, and at the slider's ends.
STEP, REST = 220, 1600
PAGES = ("attack?img=2&eps=0", "features")


def pictures(page: Page, address: str) -> list[tuple[Image.Image, int]]:
    """Returns a (picture, milliseconds) pair for every position of the page's slider, from its low
    end to its high end.
    """
    page.goto(address)
    wait_until_settled(page)
    slider = page.locator(".screen input[type=range]").first
    slider.focus()
    slider.press("Home")
    taken = [(_taken(page), REST)]
    while slider.input_value() != slider.get_attribute("max"):
        slider.press("ArrowRight")
        taken.append((_taken(page), STEP))
    return [*taken[:-1], (taken[-1][0], REST)]


def _taken(page: Page) -> Image.Image:
    page.evaluate(
        "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
    )
    return (
        Image.open(io.BytesIO(page.screenshot()))
        .convert("RGB")
        .resize(SIZE, Image.Resampling.LANCZOS)
    )


def make(file: Path) -> None:
    """Writes the film to `file`."""
    with tempfile.TemporaryDirectory() as place, sync_playwright() as play:
        server = Server(Path(place))
        browser = play.chromium.launch(executable_path=chromium.find(), args=ARGUMENTS)
        try:
            page = browser.new_page(
                viewport={"width": 1280, "height": 720},
                color_scheme="light",
                reduced_motion="reduce",
            )
            film = [one for name in PAGES for one in pictures(page, f"{server.url}/{name}")]
        finally:
            browser.close()
            server.end()
    images, times = zip(*film, strict=True)
    images[0].save(
        file,
        save_all=True,
        append_images=images[1:],
        duration=list(times),
        loop=0,
        quality=72,
        method=6,
    )
    print(f"{file}: {len(images)} pictures, {file.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    make(Path(sys.argv[1]) if sys.argv[1:] else REPOSITORY / "docs" / "film.webp")
