"""The views in a real browser: taking home, choosing an image for all of them, opening fast."""

from __future__ import annotations

import io
import re

import numpy as np
from playwright.sync_api import expect


def test_a_figure_is_taken_home_as_table_arrays_page_and_python(page, server, settled):
    page.goto(f"{server}/attack?data=digits&img=5")
    settled(page, 90_000)
    page.locator(".st-key-home-bars-a").get_by_role("button").click()
    expect(page.get_by_text("In a notebook:")).to_be_visible()
    taken = {}
    for label in ("Numbers drawn", "All that was measured", "Figure (HTML", "Picture (PNG)"):
        with page.expect_download() as download:
            page.get_by_role("button", name=re.compile(re.escape(label))).click()
        taken[label] = download.value.path().read_bytes()
    assert taken["Numbers drawn"].startswith(b"trace,x,y")
    assert np.load(io.BytesIO(taken["All that was measured"]))["x"].shape == (1, 8, 8)
    assert b"<script" in taken["Figure (HTML"] and taken["Picture (PNG)"].startswith(b"\x89PNG")
    said = page.get_by_test_id("stCode").inner_text()
    assert "open_run(" in said and "index=5" in said
    settled(page)


def test_the_camera_of_a_figure_gives_an_svg(page, server, settled):
    page.goto(f"{server}/attack?data=digits&img=5")
    settled(page, 90_000)
    chart = page.locator(".st-key-bars-a")
    chart.hover()
    with page.expect_download() as download:
        chart.locator("[data-title*='Download plot']").click()
    assert download.value.suggested_filename.endswith(".svg") and b"<svg" in download.value.path().read_bytes()
