"""Tests the lesson as a student uses it: a single file, no network, on a phone or a laptop, by
keyboard alone.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from robustviz.cli import main
from robustviz.ui import networks
from robustviz.views.tour.steps import DATA, steps

STEPS = steps(*networks.defaults(networks.on(DATA)))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Writes the lesson with the command, light and dark, and returns the addresses of the two
    files.
    """
    stick = tmp_path_factory.mktemp("stick")
    made = {scheme: stick / f"lesson {scheme}.html" for scheme in ("light", "dark")}
    for scheme, path in made.items():
        assert main(["lesson", "--out", str(path), "--scheme", scheme]) == 0
    return {scheme: path.as_uri() for scheme, path in made.items()}


@pytest.fixture
def student(
    browser: Browser, browser_context_args: dict[str, Any]
) -> Iterator[Callable[..., Page]]:
    """`student(width)`: opens a page without a network. Any error, and any request outside the
    file, fails the test.
    """
    problems: list[str] = []
    contexts = []

    def opened(width: int) -> Page:
        size = {"viewport": {"width": width, "height": 800}, "offline": True}
        contexts.append(browser.new_context(**browser_context_args | size))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda said: said.type == "error" and problems.append(said.text))
        page.on(
            "request",
            lambda asked: asked.url[:5] in ("http:", "https") and problems.append(asked.url),
        )
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not problems, "\n".join(problems)


def tab_to(page: Page, what: str, key: str = "Tab") -> None:
    for _ in range(40):
        page.keyboard.press(key)
        if page.evaluate("what => document.activeElement.matches(what)", what):
            return
    raise AssertionError(f"The Tab key does not come to {what}.")


def guess(page: Page, option: int) -> None:
    """Guesses by keyboard: arrow keys choose an option, Enter submits it."""
    tab_to(page, "[name=guess]")
    page.keyboard.press("Space")
    for _ in range(option):
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")


def saved(page: Page, press: Callable[[], None]) -> tuple[str, list[dict[str, str]]]:
    with page.expect_download() as coming:
        press()
    content = Path(coming.value.path()).read_bytes()
    # Without this byte order mark a spreadsheet garbles names.
    assert content.startswith(b"\xef\xbb\xbf")
    return coming.value.suggested_filename, list(
        csv.DictReader(io.StringIO(content.decode("utf-8-sig")))
    )


@pytest.mark.parametrize("width", [400, 1280])
def test_it_goes_by_keyboard_alone_from_a_file_to_the_table_of_answers(width, files, student):
    page = student(width)
    page.goto(files["light"])
    # The guesses are right and wrong in turn, beginning with a right one.
    given = [(step.right + place % 2) % len(step.options) for place, step in enumerate(STEPS)]
    for place, (step, option) in enumerate(zip(STEPS, given, strict=True)):
        expect(page.locator("legend")).to_have_text(step.question)
        expect(page.locator(".told")).to_have_text("")
        guess(page, option)
        said = "No." if place % 2 else "Yes."
        expect(page.locator(".told")).to_have_text(f"{said} {step.told}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("document.activeElement.className") == "next"
        if step.screen.control is not None:  # The slider must change the sentence at the picture.
            tab_to(page, ".here input[type=range]")
            page.keyboard.press("Home")
            values = step.screen.control.values
            page.keyboard.press("ArrowRight")
            expect(page.locator(".here output")).to_have_text(
                f"{values[1]}{step.screen.control.unit}"
            )
        page.locator(".next").focus()
        page.keyboard.press("Enter")  # On the button of the next step.
    expect(page.locator(".sum")).to_have_text("4 of 7 guesses right. 7 steps.")
    for place, (step, option) in enumerate(zip(STEPS, given, strict=True)):
        said = f"You said {step.options[option]}. {'No.' if place % 2 else 'Yes.'} {step.told}"
        expect(page.locator(".answers li").nth(place)).to_have_text(f"{step.question} {said}")
    tab_to(page, ".who")
    page.keyboard.type('=Zoë, "Z"')
    tab_to(page, ".save")
    name, rows = saved(page, lambda: page.keyboard.press("Enter"))
    assert name == "answers-Zoë-Z.csv"
    assert rows == [
        {
            # A spreadsheet must not evaluate what somebody typed as a formula.
            "name": '\'=Zoë, "Z"',
            "step": str(place + 1),
            "question": step.question,
            "guess": step.options[option],
            "measured": step.options[step.right],
            "right": str(int(option == step.right)),
        }
        for place, (step, option) in enumerate(zip(STEPS, given, strict=True))
    ]


def test_a_guess_outlives_a_reload_until_somebody_else_begins(files, student):
    page = student(1280)
    page.goto(files["light"])
    page.get_by_role("button", name="Your answers").click()
    expect(page.locator(".sum")).to_have_text("No guess yet. 7 steps.")
    expect(page.locator(".again")).to_be_hidden()
    page.get_by_role("button", name="1 See").click()
    guess(page, STEPS[0].right)
    expect(page.locator(".told")).to_have_text(f"Yes. {STEPS[0].told}")
    page.reload()
    expect(page.locator(".told")).to_have_text(f"Yes. {STEPS[0].told}")
    page.get_by_role("button", name="Your answers").click()
    page.reload()  # It stays where the student was.
    expect(page.locator(".sum")).to_contain_text("1 of 1 guesses right")
    page.locator(".again").press("Enter")
    expect(page.locator("legend")).to_have_text(STEPS[0].question)
    expect(page.locator(".told")).to_have_text("")
    page.reload()
    expect(page.get_by_role("button", name="That is my guess")).to_be_visible()
    expect(page.locator(".score")).to_have_text("")


@pytest.mark.parametrize(("scheme", "width"), [("light", 400), ("dark", 1280)])
def test_axe_finds_nothing(scheme, width, files, student):
    page = student(width)
    page.goto(files[scheme])

    def look(where: str) -> None:
        found = Axe().run(page).response["violations"]
        told = [
            f"{where}: {one['id']} {[node['target'] for node in one['nodes']][:3]}" for one in found
        ]
        assert not told, "\n".join(told)

    for place, step in enumerate(STEPS):
        look(f"{step.key}, asked")
        guess(page, step.right)
        look(f"{step.key}, told")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, place
        page.locator(".next").click()
    look("the end")
