"""Tests figures as files with public tools: a PDF's width, fonts, pictures and text size."""

from __future__ import annotations

import io
import re

import numpy as np
import plotly.graph_objects as go
import pypdf
import pytest
from PIL import Image

from robustviz import figures
from robustviz.views.attack.result import AccuracyCurve
from robustviz.views.theme import CLASSES, LIGHT, blank, finish

MM = 72 / 25.4  # In points.


@pytest.fixture(autouse=True)
def browser_of_the_tests(monkeypatch, browser_type_launch_args) -> None:
    monkeypatch.setenv("BROWSER_PATH", str(browser_type_launch_args["executable_path"]))


def curve() -> go.Figure:
    about = {"run": "a", "method": "pgd_at", "data": "digits", "train_eps": 0.1, "seed": 0}
    about |= {"classes": ["0", "1"], "attack": {"key": "pgd", "steps": 20}}
    found = AccuracyCurve(np.array([0, 0.1]), np.array([48, 40]), 50, meta=about)
    return figures.accuracy_curve({"A PGD-AT": found, "B TRADES": found})


def crowd() -> go.Figure:
    """Returns a figure with two thousand points, which a page draws with WebGL."""
    figure, rng = blank(LIGHT, "A crowd"), np.random.default_rng(0)
    for name, colour in zip("ab", CLASSES[LIGHT], strict=False):
        figure.add_scattergl(
            x=rng.normal(size=1000),
            y=rng.normal(size=1000),
            mode="markers",
            name=name,
            marker={"color": colour, "size": 7, "symbol": "circle"},
        )
    return finish(figure, "A crowd.", {})


def printed(figure: go.Figure, **how: object) -> pypdf.PageObject:
    data = figures.printed(figures.for_paper(figure, **how), "pdf")
    pages = pypdf.PdfReader(io.BytesIO(data)).pages
    assert len(pages) == 1
    return pages[0]


def type_sizes(page: pypdf.PageObject) -> list[float]:
    """Returns the font size of each piece of text, in points on the paper."""
    found = []

    def see(text: str, cm: list[float], tm: list[float], _: object, size: float) -> None:
        if text.strip():
            scale = abs(np.linalg.det([cm[:2], cm[2:4]]) * np.linalg.det([tm[:2], tm[2:4]])) ** 0.5
            found.append(size * scale)

    page.extract_text(visitor_text=see)
    return found


@pytest.mark.parametrize(("width", "mm", "size"), [("84mm", 84, 8), ("174mm", 174, 10)])
def test_a_pdf_has_the_width_and_the_type_that_were_asked_for(width, mm, size) -> None:
    page = printed(curve(), width=width, height="50mm", size=size)
    # The tolerance is 0.035 mm.
    assert float(page.mediabox.width) == pytest.approx(mm * MM, abs=0.1)
    assert float(page.mediabox.height) == pytest.approx(50 * MM, abs=0.1)
    found = type_sizes(page)
    assert len(found) > 10 and found == pytest.approx([size] * len(found), rel=0.01)
    text = page.extract_text()
    assert "A PGD-AT" in text and "accuracy under attack" in text and "Accuracy under" not in text


def test_fonts_are_embedded_and_points_are_no_bitmap() -> None:
    page = printed(crowd())
    resources = page["/Resources"]
    assert not page.images
    for font in resources["/Font"].values():
        inner = font.get_object()["/DescendantFonts"][0].get_object()
        assert inner["/Subtype"] == "/CIDFontType2"  # Not Type 3, which journals refuse.
        assert "/FontFile2" in inner["/FontDescriptor"].get_object()
    # Circles are drawn as vectors, with four arcs per point.
    assert page.get_contents().get_data().count(b" c\n") > 4 * 2000


def test_a_font_that_is_there_is_the_one_that_is_used() -> None:
    data = figures.printed(figures.for_paper(curve(), font="DejaVu Serif"), "pdf")
    if "DejaVuSerif" not in figures.fonts(data):
        pytest.skip(f"this computer has {figures.fonts(data)}")
    assert figures.fonts(data) == ["DejaVuSerif"]


def test_an_svg_has_millimetres_and_text_and_a_png_six_hundred_dots_an_inch(tmp_path) -> None:
    paper = figures.for_paper(curve())
    svg = figures.write(paper, tmp_path / "f.svg").read_text(encoding="utf-8")
    head = svg[: svg.index(">")]
    assert 'width="84.000mm"' in head and re.search(r"<text[^>]*>A PGD-AT", svg)
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", svg) and "<image" not in svg
    png = Image.open(io.BytesIO(figures.write(paper, tmp_path / "f.png").read_bytes()))
    assert png.width == pytest.approx(84 / 25.4 * 600, abs=2)
    assert png.info["dpi"] == pytest.approx((600, 600), abs=1)
