"""Tests forty students' cards dropped together on the Compare page, in a real browser, also at a
phone's width and by keyboard.
"""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import FilePayload, Page, expect

from robustviz.runs import card, folder
from tests.browser.test_journeys import serious
from tests.browser.test_your_data import in_memory, send

Settled = Callable[[Page], Page]


def students(count: int) -> list[FilePayload]:
    """Returns `count` cards of one run, each with another seed and other numbers."""
    first = card.of_run(folder.open_run("digits-pgd-at-small-resnet-s0-0c56e5c2"))
    out = []
    for seed in range(count):
        numbers = tuple({**one, "right": one["right"] - seed % 7} for one in first.numbers)
        settings = {**first.settings, "seed": seed}
        made = card.Card("mine", "", "digits", settings, numbers)  # type: ignore[arg-type]
        out.append(
            FilePayload(name=f"{seed}.json", mimeType="application/json", buffer=made.to_bytes())
        )
    return out


def test_forty_cards_at_once(page: Page, server: str, settled: Settled) -> None:
    page.set_viewport_size({"width": 400, "height": 800})
    page.goto(f"{server}/compare?data=digits")
    settled(page)
    drawer = page.locator("summary", has_text="Cards of a class")
    drawer.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_text("No cards yet")).to_be_visible()
    send(page, settled, *students(40))
    answer = page.get_by_text("Same settings, 40 seeds: 84.2% to 85.8%. The differences")
    expect(answer).to_be_visible()
    assert not in_memory(server)
    strips = page.locator(".strips")
    assert strips.locator(".small circle").count() == 41
    wide = strips.evaluate("one => one.scrollWidth - one.clientWidth")
    assert wide <= 0 and not serious(page)
    slider = page.locator("input[type=range]").last
    slider.focus()
    page.keyboard.press("End")
    expect(page.get_by_text("Same settings, 40 seeds: 97.5% to 99.2%.")).to_be_visible()
    settled(page)
    page.get_by_role("button", name="Remove all cards").click()
    expect(page.get_by_text("No cards yet")).to_be_visible()
