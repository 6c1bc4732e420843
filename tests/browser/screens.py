"""Takes pictures of every first screen at 1280×720: `python tests/browser/screens.py [FOLDER]
[dark]`.

The pictures in `docs/screens` are the light ones. The program starts its own app with an empty
folder of runs, so the pictures show only what is shipped.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).parent))
from conftest import ARGUMENTS, REPOSITORY, Server, chromium, wait_until_settled

PAGES = {
    "start": "",
    "attack": "attack",
    "attention": "attention",
    "features": "features",
    "loss": "soft-labels",
    "hard-or-soft": "soft-labels?compared=alignment",
    "transfer": "transfer",
    "contributions": "contributions",
    "budget": "budget",
    "compare": "compare",
    "glossary": "glossary",
}


def take(folder: Path, scheme: str) -> None:
    """Writes a picture NAME.png of every page to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place, sync_playwright() as play:
        server = Server(Path(place))
        browser = play.chromium.launch(executable_path=chromium.find(), args=ARGUMENTS)
        try:
            for name, address in PAGES.items():
                page = browser.new_page(
                    viewport={"width": 1280, "height": 720},
                    color_scheme=scheme,  # type: ignore[arg-type]
                    reduced_motion="reduce",
                )
                page.goto(f"{server.url}/{address}")
                wait_until_settled(page)
                page.screenshot(path=folder / f"{name}.png")
                page.close()
                print(folder / f"{name}.png", flush=True)
        finally:
            browser.close()
            server.end()


if __name__ == "__main__":
    asked = sys.argv[1:]
    take(
        next((Path(one) for one in asked if one != "dark"), REPOSITORY / "docs" / "screens"),
        "dark" if "dark" in asked else "light",
    )
