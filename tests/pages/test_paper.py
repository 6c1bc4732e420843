"""What *Take home* offers for a paper: files where a browser can make them and the person may, and
the caption always.
"""

from __future__ import annotations

import pytest

PAPER = ["Figure for a paper (PDF)", "Figure for a paper (SVG)"]


def opened(visit, name: str, key: str):
    """The page with a *Take home* open."""
    app = visit(name, data="digits", img=5)
    app.session_state[f"home-{key}"] = True
    app.run()
    assert not app.exception
    return app


def offered(app) -> list[str]:
    return [element.proto.label for element in app.get("download_button")]


def said(app) -> str:
    return " ".join(element.value for element in [*app.markdown, *app.code])


def test_a_figure_has_files_for_a_paper_and_a_caption(visit, monkeypatch) -> None:
    monkeypatch.setattr("robustviz.ui.widgets.able", lambda: True)
    app = opened(visit, "attack", "bars-a")
    assert set(PAPER) < set(offered(app))
    assert "test image 5 of digits, PGD-10 at ε = 38/255, seed 0." in said(app)


@pytest.mark.parametrize("demo", [True, False])
def test_without_a_browser_or_the_right_there_is_the_camera(demo, visit, monkeypatch) -> None:
    """Forty students must not start forty browsers on the server."""
    monkeypatch.setattr("robustviz.ui.widgets.able", lambda: demo)
    monkeypatch.setenv("ROBUSTVIZ_DEMO", "1" if demo else "")
    app = opened(visit, "attack", "bars-a")
    assert not set(PAPER) & set(offered(app))
    assert "Figure (SVG): the camera" in said(app)
    assert ("A PDF needs kaleido" in said(app)) is not demo


def test_a_first_screen_has_its_charts_its_pictures_and_a_caption(visit) -> None:
    app = opened(visit, "attack", "attack")
    assert {"Charts (SVG)", "Pictures, × 8 (PNG)"} < set(offered(app))
    assert "How little does it take? (ε, the most that a pixel may change: 38/255): A" in said(app)
