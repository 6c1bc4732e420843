"""Tests that each page answers its question without scrolling and in short sentences, and that its
first screen moves without asking the server.
"""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from robustviz.views.screen import wordy

# Every page with a first screen, and whether something on that screen moves.
SCREENS = {
    "attack": True,
    "attention": True,
    "features": True,
    "soft-labels": True,
    "transfer": False,
    "contributions": True,
    "budget": True,
    "compare": False,
}
HEIGHT = 720


def shown(page: Page, server: str, settled, name: str, **address: str) -> Page:
    """Opens the page at 1280×720 and returns it."""
    page.set_viewport_size({"width": 1280, "height": HEIGHT})
    query = "&".join(f"{key}={value}" for key, value in address.items())
    page.goto(f"{server}/{name}?{query}")
    settled(page)
    expect(page.locator(".screen .answer").first).not_to_be_empty()
    return page


@pytest.mark.parametrize("data", ["shapes", "digits"])
@pytest.mark.parametrize("name", SCREENS)
def test_question_answer_picture_and_control_need_no_scrolling(page, server, settled, name, data):
    shown(page, server, settled, name, data=data)
    parts = [page.locator("h1").first]
    parts += [page.locator(f".screen {part}").first for part in (".answer", ".picture")]
    if SCREENS[name]:
        parts.append(page.locator(".screen .control").first)
    for part in parts:
        box = part.bounding_box()
        assert box is not None and box["height"] > 0, f"{name}: {part} is not there"
        assert box["y"] >= 0 and box["y"] + box["height"] <= HEIGHT, f"{name}: {part} at {box}"


@pytest.mark.parametrize("name", ["attack", "attention", "features", "soft-labels"])
def test_a_lecture_has_the_control_on_the_first_screen(page, server, settled, name):
    shown(page, server, settled, name, present="1")
    box = page.locator(".screen .control").first.bounding_box()
    assert box is not None and box["y"] + box["height"] <= HEIGHT, f"{name}: {box}"


def test_a_scrollbar_beside_the_page_leaves_the_five_pictures_in_one_row(page, server, settled):
    shown(page, server, settled, "attack")
    page.set_viewport_size({"width": 1280 - 17, "height": HEIGHT})
    tops = page.locator(".screen .pair figure").evaluate_all(
        "all => all.map((one) => one.getBoundingClientRect().top)"
    )
    assert len(tops) == 5 and len(set(tops)) == 1


@pytest.mark.parametrize("data", ["shapes", "digits"])
@pytest.mark.parametrize("name", [*SCREENS, "", "train", "your-data", "glossary"])
def test_what_is_written_can_be_taken_in_at_a_glance(page, server, settled, name, data):
    page.goto(f"{server}/{name}?data={data}")
    settled(page)
    written = "[data-testid=stMain] [data-testid=stMarkdownContainer]:visible > :is(p, ul)"
    texts = page.locator(f"{written}, .screen .answer").all_inner_texts()
    texts += page.locator(".screen .picture figcaption").all_inner_texts()
    assert not [sentence for text in texts for sentence in wordy(text)]


@pytest.mark.parametrize("name", [name for name, moves in SCREENS.items() if moves])
def test_the_control_moves_the_picture_without_the_server(page, server, settled, name):
    shown(page, server, settled, name)
    picture = page.locator(".screen .picture").first
    slider = page.locator(".screen input[type=range]").first
    before, value = picture.inner_html(), slider.input_value()
    page.context.set_offline(True)
    slider.focus()
    slider.press("End" if value != slider.get_attribute("max") else "Home")
    after = picture.inner_html(), page.locator(".screen").first.get_attribute("style")
    assert slider.input_value() != value
    assert after[0] != before or "--at" in (after[1] or "")
    page.context.set_offline(False)


def test_the_resting_slider_is_in_the_address_and_comes_back(page, server, settled):
    shown(page, server, settled, "attack", img="1")
    slider = page.locator(".screen input[type=range]").first
    slider.focus()
    for _ in range(3):
        slider.press("ArrowLeft")
    said = page.locator(".screen output").first.inner_text()
    expect(page).to_have_url(re.compile("eps="))
    settled(page)
    answer = page.locator(".screen .answer").first.inner_text()
    page.goto(page.url)
    settled(page)
    expect(page.locator(".screen output").first).to_have_text(said)
    expect(page.locator(".screen .answer").first).to_have_text(answer)


def test_a_menu_click_keeps_the_page_and_starts_at_the_top(page, server, settled):
    shown(page, server, settled, "attack")
    page.evaluate("window.kept = true")
    main = page.get_by_test_id("stMain")
    main.evaluate("one => one.scrollTo(0, one.scrollHeight)")
    assert main.evaluate("one => one.scrollTop") > 0
    page.get_by_role("link", name="Contributions", exact=True).click()
    expect(
        page.get_by_role("heading", name="How many features does an answer rest on?")
    ).to_be_visible()
    settled(page)
    assert main.evaluate("one => one.scrollTop") == 0
    assert page.evaluate("window.kept")


def test_a_lecture_asks_first_and_goes_on_by_arrow_keys(page, server, settled):
    shown(page, server, settled, "attack", present="1")
    answer = page.locator(".screen .answer").first
    expect(answer).not_to_be_visible()
    expect(page.get_by_role("link", name="Attention", exact=True)).to_have_count(0)
    page.get_by_role("button", name="Reveal").click()
    expect(answer).to_be_visible()
    page.locator("h1").click()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("heading", name="Which pixels matter")).to_be_visible()
    settled(page)
    expect(page).to_have_url(re.compile("present=1"))
    expect(page.locator(".screen .answer").first).not_to_be_visible()
    page.get_by_role("button", name="End lecture").click()
    expect(page.get_by_role("link", name="Attention", exact=True)).to_be_visible()
