"""Tests the views in a real browser: *Take home*, choosing one image for all views, fast
opening.
"""

from __future__ import annotations

import io
import json
import re

import numpy as np
from playwright.sync_api import expect


def test_a_figure_is_taken_home_as_table_arrays_page_and_python(page, server, settled):
    page.goto(f"{server}/attack?data=digits&img=5")
    settled(page)
    page.locator(".st-key-home-bars-a").get_by_role("button").click()
    expect(page.get_by_text("In a notebook:")).to_be_visible()
    page.get_by_role("button", name="Make a PDF and an SVG, 84mm wide").click()
    settled(page)
    taken = {}
    files = ("Numbers drawn", "All measured data", "Figure (HTML", "Picture (PNG)", "paper (PDF)")
    for label in (*files, "Notebook that repeats"):
        with page.expect_download() as download:
            page.get_by_role("button", name=re.compile(re.escape(label))).click()
        taken[label] = download.value.path().read_bytes()
    assert taken["Numbers drawn"].startswith(b"trace,x,y")
    assert np.load(io.BytesIO(taken["All measured data"]))["x"].shape == (1, 8, 8)
    assert b"<script" in taken["Figure (HTML"] and taken["Picture (PNG)"].startswith(b"\x89PNG")
    assert taken["paper (PDF)"].startswith(b"%PDF") and b"/Font" in taken["paper (PDF)"]
    made = json.loads(taken["Notebook that repeats"])
    assert made["nbformat"] == 4 and "RECORDED" in str(made["cells"])
    said = page.get_by_test_id("stCode").filter(has_text="open_run(").inner_text()
    assert "open_run(" in said and "index=5" in said
    settled(page)


def test_the_camera_of_a_figure_gives_an_svg(page, server, settled):
    page.goto(f"{server}/attack?data=digits&img=5")
    settled(page)
    chart = page.locator(".st-key-bars-a")
    chart.hover()
    with page.expect_download() as download:
        chart.locator("[data-title*='Download plot']").click()
    assert (
        download.value.suggested_filename.endswith(".svg")
        and b"<svg" in download.value.path().read_bytes()
    )


# Returns the screen position of a figure's most isolated point, and the number of its test image.
LONELIEST = """gd => {
    const points = [], x = gd._fullLayout.xaxis, y = gd._fullLayout.yaxis;
    const box = gd.getBoundingClientRect();
    for (const trace of gd._fullData) {
        if (!trace.customdata) continue;
        for (let i = 0; i < trace.x.length; i++) points.push(
            [box.left + x._offset + x.l2p(trace.x[i]), box.top + y._offset + y.l2p(trace.y[i]),
             trace.customdata[i][0]]);
    }
    const gap = p => Math.min(...points.filter(q => q !== p)
        .map(q => Math.hypot(p[0] - q[0], p[1] - q[1])));
    return points.sort((p, q) => gap(q) - gap(p))[0];
}"""


# Returns the image number of the point under the mouse, after the figure has noticed the mouse,
# which takes a few frames.
HOVERED = """gd => new Promise(done => requestAnimationFrame(() => requestIdleCallback(
    () => setTimeout(() => done(gd._hoverdata?.[0]?.customdata?.[0] ?? null), 50),
    { timeout: 2000 })))"""


# Makes the figure note in the page which image's point was clicked.
LISTEN = """gd => {
    if (gd.listens) return;
    gd.listens = true;
    gd.on('plotly_click', event => window.clickedImage = event.points[0].customdata[0]);
}"""


def click_a_point(page, key: str) -> int:
    """Clicks the most isolated point of the figure `key` once the figure reports that the mouse is
    over it, until the figure reports the click: a figure that is drawn again misses one. Returns
    the number of its image.
    """
    plot = page.locator(f".st-key-{key} .js-plotly-plot").first
    plot.scroll_into_view_if_needed()
    for _ in range(100):  # The page may still move under the mouse.
        plot.evaluate(LISTEN)
        x, y, number = plot.evaluate(LONELIEST)
        page.mouse.move(x + 1, y)
        page.mouse.move(x, y)
        if plot.evaluate(HOVERED) == number:
            page.mouse.click(x, y)
            if page.evaluate("window.clickedImage") == number:
                return int(number)
    raise AssertionError("The figure reported no click on its most isolated point.")


def open_more(page, settled) -> None:
    """Opens the *More* expander at the end of the page."""
    page.get_by_text("More", exact=True).last.click()
    settled(page)


def test_a_point_of_the_map_becomes_the_image_of_every_view_and_of_the_address(
    page, server, settled, browser, problems
):
    page.goto(f"{server}/features?data=digits&img=300")
    settled(page)
    expect(page.locator(".strip").first).to_contain_text("Image 300 is not among the")
    # The first screen by keyboard: all marks together are one stop of the Tab key.
    mark = page.locator(".map").last.locator(".pt[tabindex='0']")
    mark.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".card")).to_contain_text("Image 1:")
    expect(page.locator(".card .sheet")).to_have_count(2)
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("img=1(&|$)"))
    settled(page)
    expect(page.locator(".strip").first).to_contain_text("nearest:")
    # The slider moves the marks without the server.
    place = page.locator(".map .pt").first
    before = place.bounding_box()
    page.locator(".screen input[type=range]").first.press("Home")
    expect(page.locator(".screen output").first).to_have_text("untouched")
    assert place.bounding_box() != before
    page.wait_for_url(re.compile("way=untouched"))
    settled(page)
    open_more(page, settled)
    number = click_a_point(page, "map-b")
    expect(page).to_have_url(re.compile(f"img={number}(&|$)"))
    settled(page)
    pickers = page.locator(".st-key-pickers")
    chosen = pickers.get_by_role("button", name=re.compile(f"^Image {number}: "))
    expect(chosen).to_be_visible()
    expect(page.get_by_role("heading", name=f"Image {number}", exact=True)).to_be_visible()
    for name in ("Attack", "Attention", "Loss"):
        page.get_by_role("link", name=name, exact=True).click()
        settled(page)
        expect(chosen).to_be_visible()
        expect(page).to_have_url(re.compile(f"img={number}(&|$)"))
    seen = page.get_by_test_id("stMain").inner_text()
    other = browser.new_context().new_page()
    other.goto(page.url)
    settled(other)
    assert other.get_by_test_id("stMain").inner_text() == seen
    other.context.close()
    # A picture may have been replaced before the browser fetched it.
    problems[:] = [problem for problem in problems if "/media/" not in problem]


def test_a_lasso_shows_what_it_caught_and_a_thumbnail_opens_it_everywhere(
    page, server, settled, problems
):
    page.goto(f"{server}/features?data=digits")
    settled(page)
    open_more(page, settled)
    chart = page.locator(".st-key-map-a .js-plotly-plot").first
    chart.scroll_into_view_if_needed()
    chart.hover()
    chart.locator("[data-title='Box Select']").click()
    page.wait_for_function(
        "document.querySelector('.st-key-map-a .js-plotly-plot')._fullLayout.dragmode === 'select'"
    )
    area = chart.locator(".nsewdrag").first.bounding_box()
    page.mouse.move(area["x"] + area["width"] * 0.1, area["y"] + area["height"] * 0.1)
    page.mouse.down()
    page.mouse.move(area["x"] + area["width"] * 0.6, area["y"] + area["height"] * 0.6, steps=6)
    page.mouse.up()
    expect(page.get_by_text(re.compile(r"\d+ images? chosen"))).to_be_visible()
    settled(page)
    button = (
        page.locator(".st-key-thumbs-lasso").get_by_role("button", name=re.compile(r"^\d+$")).nth(2)
    )
    expect(button).to_have_text(re.compile(r"\d+"))
    number = button.inner_text().strip()
    button.press("Enter")
    expect(page).to_have_url(re.compile(f"img={number}(&|$)"))
    settled(page)
    with page.expect_download() as download:
        page.get_by_role("button", name=re.compile("selected .CSV.")).click()
    assert download.value.path().read_text().startswith("image,class,")
    problems[:] = [problem for problem in problems if "/media/" not in problem]
