"""Tests what every page shows before anybody touches it: the question, its answer, the picture and
the control, in short sentences, without scrolling, for everybody, in light and dark, and on narrow
windows. Each page is opened once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from playwright.sync_api import Page, expect

from robustviz.views.screen import COLOURS, wordy
from tests.browser.test_journeys import PAGES, serious

MOVING = ("attack", "attention", "features", "soft-labels", "contributions", "budget")
SCREENS = (*MOVING, "transfer", "compare")
FIRST = (*SCREENS, *(name for name in PAGES if name not in SCREENS))
ON_SHAPES = [f"{name}?data=shapes" for name in FIRST]
ON_DIGITS = [f"{name}?data=digits" for name in (*SCREENS, "train")]
SIZE = {"width": 1280, "height": 720}


def on(addresses: list[str], also: Sequence[str] = ()) -> pytest.MarkDecorator:
    """Runs a test on the pages at these addresses, and in the slow suite on those of `also`. A page
    that all tests below use is opened once only if each list begins as the longest one does.
    """
    every = [*addresses, *(pytest.param(each, marks=pytest.mark.slow) for each in also)]
    names = [each.replace("?data=", "-").removeprefix("-") for each in (*addresses, *also)]
    return pytest.mark.parametrize("_opened", every, indirect=True, ids=names)


# The right edge of the widest of these elements, in pixels from the left.
EDGE = "all => Math.max(0, ...all.map((one) => one.getBoundingClientRect().right))"
# Whether the page has been drawn again for a colour scheme, which its own style sheet names.
DRAWN_FOR = """said => [...document.querySelectorAll("style")].some(
    one => one.textContent.includes(said))"""


def paper(scheme: str) -> str:
    """Returns the background colour of all pages in a colour scheme, as CSS reports it."""
    parts = [str(int(COLOURS[scheme]["paper"][at : at + 2], 16)) for at in (1, 3, 5)]
    return f"rgb({', '.join(parts)})"


def name_of(page: Page) -> str:
    return page.url.partition("?")[0].rpartition("/")[2]


@on(ON_SHAPES, ON_DIGITS)
def test_question_answer_picture_and_control_need_no_scrolling(opened: Page) -> None:
    name, parts = name_of(opened), [opened.locator("h1").first]
    if name in SCREENS:
        expect(opened.locator(".screen .answer").first).not_to_be_empty()
        asked = (".answer", ".picture", *([".control"] if name in MOVING else []))
        parts += [opened.locator(f".screen {part}").first for part in asked]
    for part in parts:
        box = part.bounding_box()
        assert box is not None and box["height"] > 0, f"{name}: {part} is not there"
        assert box["y"] >= 0 and box["y"] + box["height"] <= SIZE["height"], (
            f"{name}: {part} at {box}"
        )


@on(ON_SHAPES, ON_DIGITS)
def test_what_is_written_can_be_taken_in_at_a_glance(opened: Page) -> None:
    written = "[data-testid=stMain] [data-testid=stMarkdownContainer]:visible > :is(p, ul)"
    texts = opened.locator(f"{written}, .screen .answer").all_inner_texts()
    texts += opened.locator(".screen .picture figcaption").all_inner_texts()
    assert texts and not [sentence for text in texts for sentence in wordy(text)]


@on(ON_SHAPES)
def test_axe_finds_nothing_serious(opened: Page) -> None:
    found = serious(opened)
    assert not found, "\n".join(found)
    # A WebGL chart needs three contexts, and browsers drop contexts beyond four charts.
    assert opened.locator(".gl-canvas").count() <= 3 * 4


@on(ON_SHAPES)
def test_axe_finds_nothing_serious_in_dark(opened: Page, settled: Callable[[Page], Page]) -> None:
    """The browser changes from light to dark, as it does in the evening."""
    for scheme in ("dark", "light"):
        opened.emulate_media(color_scheme=scheme)
        expect(opened.get_by_test_id("stApp")).to_have_css("background-color", paper(scheme))
        opened.wait_for_function(DRAWN_FOR, arg=f"{{ color-scheme: {scheme} }}")
        settled(opened)
        if scheme == "dark":
            found = serious(opened)
    assert not found, "\n".join(found)


@on(ON_SHAPES)
def test_nothing_is_cut_off_at_400_pixels_nor_at_twice_the_size(opened: Page) -> None:
    for width in (400, 640):  # A window of 1,280 pixels at a zoom of 200% is 640 pixels wide.
        opened.set_viewport_size({"width": width, "height": 800})
        for part in ("document.documentElement", "document.querySelector('[data-testid=stMain]')"):
            opened.wait_for_function(f"() => {part}.scrollWidth <= {width}")
        charts = opened.locator(".screen .picture svg")
        assert charts.evaluate_all(EDGE) <= width  # A chart is seen whole, without scrolling it.
    opened.set_viewport_size(SIZE)


@on(ON_SHAPES[: len(MOVING)])
def test_the_control_moves_the_picture_without_the_server(opened: Page) -> None:
    """Goes last: it leaves the page with another position of the slider."""
    picture = opened.locator(".screen .picture").first
    slider = opened.locator(".screen input[type=range]").first
    before, value = picture.inner_html(), slider.input_value()
    opened.context.set_offline(True)
    slider.focus()
    slider.press("End" if value != slider.get_attribute("max") else "Home")
    after = picture.inner_html(), opened.locator(".screen").first.get_attribute("style")
    assert slider.input_value() != value
    assert after[0] != before or "--at" in (after[1] or "")
    opened.context.set_offline(False)
