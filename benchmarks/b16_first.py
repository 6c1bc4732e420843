"""B16: time to the first picture in a real browser: on a new server, on a server in use after a
click in the menu, and from a key press to the picture of another ε.

A time runs from opening the address (of a server that already answers) until the first picture of
the page is drawn.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.b12_app import Server, app, p95
from benchmarks.harness import OURS, Gate, Outcome, Time
from tests.browser import chromium

PAGES = {  # address: the text of its link in the menu
    "attack": "Attack",
    "attention": "Attention",
    "features": "Features",
    "soft-labels": "Loss",
    "transfer": "Transfer",
    "contributions": "Contributions",
    "budget": "Budget",
    "compare": "Compare",
}
FRESH, WARM, KEY = 3.0, 1.5, 100.0  # limits: seconds, seconds, milliseconds
KEYS = 60
SCREEN = {"width": 1280, "height": 720}
ARGUMENTS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
PICTURE = ".screen .picture > :not(style)"
DRAWN = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
# records the milliseconds from each key press to the frame that shows the change
WATCH = """() => { window.waits = []; let pressed = 0;
  addEventListener("keydown", () => { pressed = performance.now() }, true);
  addEventListener("input", () => requestAnimationFrame(() => requestAnimationFrame(
    () => window.waits.push(performance.now() - pressed))), true) }"""


def outcomes(device: str, rounds: int) -> Iterator[Outcome]:
    """First pages on new servers, pages on a server in use, and the slider keys, in this order."""
    if device != "cpu":
        return
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        start = playwright.chromium.launch
        path = chromium.find()
        home = Path(folder) / "runs"
        home.mkdir()
        fresh: dict[str, list[float]] = {page: [] for page in PAGES}
        answered = []
        for page in [*PAGES] * (rounds or 5):
            started = time.perf_counter()
            with running(home) as server:
                answered.append(time.perf_counter() - started)
                browser = start(executable_path=path, args=ARGUMENTS)
                fresh[page].append(opened(browser, server, page))
                browser.close()
        yield outcome("a page after a server's start", "a fresh profile", fresh, FRESH, answered)
        with running(home) as server:
            browser = start(executable_path=path, args=ARGUMENTS)
            visit = browser.new_page(viewport=SCREEN)
            yield outcome(
                "a page by a click", "a server in use", clicked(visit, server, rounds), WARM
            )
            yield key(visit, server)
            browser.close()


@contextlib.contextmanager
def running(home: Path) -> Iterator[Server]:
    server = app(home)
    try:
        yield server
    finally:
        server.end()


def opened(browser: Browser, server: Server, page: str) -> float:
    """Seconds from opening the address to the first picture."""
    visit = browser.new_page(viewport=SCREEN)
    started = time.perf_counter()
    visit.goto(f"http://127.0.0.1:{server.port}/{page}", wait_until="commit")
    return drawn(visit, started)


def drawn(visit: Page, started: float) -> float:
    visit.locator(PICTURE).first.wait_for(timeout=120_000)
    visit.evaluate(DRAWN)
    return time.perf_counter() - started


def clicked(visit: Page, server: Server, rounds: int) -> dict[str, list[float]]:
    """Seconds from a click in the menu to the first picture, by page.

    Each click starts from the Start page, which has no picture. The first round is a warm-up.
    """
    found: dict[str, list[float]] = {page: [] for page in PAGES}
    visit.goto(f"http://127.0.0.1:{server.port}/")
    for _ in range((rounds or 5) + 1):
        for page, name in PAGES.items():
            link = visit.get_by_role("link", name=name, exact=True)
            link.wait_for(timeout=120_000)
            settle(visit)
            started = time.perf_counter()
            link.click()
            found[page].append(drawn(visit, started))
            settle(visit)
            visit.get_by_role("link", name="Start", exact=True).click()
            visit.locator(PICTURE).first.wait_for(state="detached", timeout=120_000)
    return {page: seconds[1:] for page, seconds in found.items()}


def settle(visit: Page) -> None:
    """Wait until the page has finished its work."""
    still = '[data-testid="stApp"][data-test-script-state="notRunning"]'
    visit.wait_for_selector(still, timeout=120_000)
    visit.wait_for_timeout(300)


def key(visit: Page, server: Server) -> Outcome:
    """Times from a key press on the slider to the picture of the next ε."""
    visit.goto(f"http://127.0.0.1:{server.port}/attack")
    drawn(visit, 0)
    settle(visit)
    slider = visit.locator(".screen input[type=range]")
    slider.focus()
    visit.evaluate(WATCH)
    for at in range(KEYS):
        slider.press("ArrowLeft" if at // 5 % 2 else "ArrowRight")
        visit.wait_for_timeout(40)
    visit.wait_for_timeout(200)
    waits = [float(wait) / 1000 for wait in visit.evaluate("() => window.waits")]
    slow = p95(waits)
    gate = Gate(f"p95 {slow:.0f} ms ≤ {KEY:.0f} ms over {len(waits)} keys", slow <= KEY)
    return Outcome(
        "B16",
        "from a key to the picture of another ε",
        "the Attack page",
        (Time(OURS, tuple(waits), waits[0]),),
        {},
        (gate,),
        machine(),
    )


def outcome(
    what: str,
    setting: str,
    found: dict[str, list[float]],
    most: float,
    answered: Sequence[float] = (),
) -> Outcome:
    """The outcome for the times `found` of each page, with a gate at `most` seconds.

    `answered`: seconds until the server answered after its start.
    """
    middles = {page: statistics.median(seconds) for page, seconds in found.items()}
    gates = tuple(
        Gate(f"{page}: median {middle:.1f} s ≤ {most:g} s", middle <= most)
        for page, middle in middles.items()
    )
    every = tuple(one for seconds in found.values() for one in seconds)
    begun = f"the server answers after {statistics.median(answered):.1f} s; " if answered else ""
    return Outcome(
        "B16",
        f"the first picture of {what}",
        f"{setting}, 1280×720, median of {len(every) // len(found)}",
        (Time(OURS, every, max(every)),),
        {},
        gates,
        f"{begun}{machine()}",
    )


def machine() -> str:
    return f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, including other processes."
