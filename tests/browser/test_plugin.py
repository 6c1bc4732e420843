"""Tests a plug-in in a real browser: its page is in the menu, its data, network and method are on
the Train page, and the worker trains with them. A plug-in that cannot be loaded breaks nothing.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.test_journeys import choose, serious
from tests.browser.test_your_data import trained

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "plugin_example.py"


def test_a_plug_in_is_trained_and_shown_and_a_broken_one_stops_nothing(
    page: Page, tmp_path: Path, fresh_server, settled
) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("1 / 0", encoding="utf-8")
    mine = shutil.copy(EXAMPLE, tmp_path / "mine.py")
    server = fresh_server(ROBUSTVIZ_PLUGINS=f"{broken}{os.pathsep}{mine}")
    assert f"The plug-in {broken} cannot be loaded: ZeroDivisionError in line 1" in server.said()
    page.goto(f"{server.url}/train")
    settled(page)
    choose(page, "Recipe", "Choose freely")
    settled(page)
    choose(page, "Data", "Stripes (16x16)")
    settled(page)
    trained(page, settled, "Defence · Half-AT", 1)
    expect(page.get_by_text("Tested:")).to_be_visible()
    (run,) = (server.log.parent / "runs").glob("stripes-half-at-pocket-cnn-*")
    page.goto(f"{server.url}/attack?a={run.name}")
    settled(page)
    expect(page.get_by_role("heading", name="How little does it take?")).to_be_visible()
    expect(page.get_by_role("button", name=re.compile("^A Half-AT"))).to_be_visible()
    page.get_by_role("link", name="Noise", exact=True).click()
    expect(page.get_by_role("heading", name="Does noise that nobody chose")).to_be_visible()
    settled(page)
    page.get_by_role("slider", name="Seed of the noise").press("ArrowRight")
    expect(page).to_have_url(re.compile("noise-seed=1"))
    settled(page)
    expect(page.get_by_text("of 100 right untouched")).to_be_visible()
    assert not serious(page)
    page.set_viewport_size({"width": 400, "height": 800})
    settled(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
