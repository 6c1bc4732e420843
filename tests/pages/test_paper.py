"""Tests what *Take home* offers for a paper: files where a browser can render them and the person
may act, and the caption always.
"""

from __future__ import annotations

import pytest

from robustviz.types import UserError

PAPER = "Make a PDF and an SVG, 84mm wide"


def opened(visit, name: str, key: str):
    """Returns the page with the given *Take home* open."""
    app = visit(name, data="digits", img=5)
    app.session_state[f"home-{key}"] = True
    app.run()
    assert not app.exception
    return app


def offered(app) -> list[str]:
    return [element.proto.label for element in app.get("download_button")]


def said(app) -> str:
    return " ".join(element.value for element in [*app.markdown, *app.code])


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robustviz.ui.widgets.able", lambda: True)


def press(app):
    next(button for button in app.button if button.label == PAPER).click()
    app.run()
    assert not app.exception
    return app


def test_a_figure_has_files_for_a_paper_and_a_caption(visit, able, monkeypatch) -> None:
    asked = []

    def made(figure):
        asked.append((figure.layout.width, figure.layout.title.text))
        return {"pdf": b"%PDF", "svg": b"<svg/>"}

    monkeypatch.setattr("robustviz.ui.widgets.vectors", made)
    app = press(opened(visit, "attack", "bars-a"))
    assert {"Figure for a paper (PDF)", "Figure for a paper (SVG)"} < set(offered(app))
    assert asked == [(pytest.approx(84 * 96 / 25.4), None)]
    assert "test image 5 of digits, PGD-10 at ε = 38/255, seed 0." in said(app)


def test_a_browser_that_fails_is_a_sentence_and_the_page_goes_on(visit, able, monkeypatch) -> None:
    def broken(figure):
        raise UserError("The browser did not manage.")

    monkeypatch.setattr("robustviz.ui.widgets.vectors", broken)
    app = press(opened(visit, "attack", "bars-a"))
    assert "The browser did not manage." in " ".join(info.value for info in app.info)
    assert not any("paper" in label for label in offered(app)) and "Its caption" in said(app)


@pytest.mark.parametrize("demo", [True, False])
def test_without_a_browser_or_the_right_there_is_the_camera(demo, visit, monkeypatch) -> None:
    """In a demo the PDF is not offered: forty students must not start forty browsers on the
    server.
    """
    monkeypatch.setattr("robustviz.ui.widgets.able", lambda: demo)
    monkeypatch.setenv("ROBUSTVIZ_DEMO", "1" if demo else "")
    app = opened(visit, "attack", "bars-a")
    assert PAPER not in [button.label for button in app.button]
    assert "Figure (SVG): click the camera" in said(app)
    assert ("A PDF needs kaleido" in said(app)) is not demo


def test_a_first_screen_has_its_charts_its_pictures_and_a_caption(visit) -> None:
    app = opened(visit, "attack", "attack")
    assert {"Charts (SVG)", "Pictures, × 8 (PNG)"} < set(offered(app))
    assert "How little does it take? (ε, the most that a pixel may change: 38/255): A" in said(app)


def test_the_attack_screen_s_curve_has_numbers_a_caption_and_the_lines_that_draw_it(visit) -> None:
    """The curve is PGD-20 on many images, the pictures are PGD-10 on one."""
    app = opened(visit, "attack", "attack")
    assert "Numbers drawn (CSV)" in offered(app)
    caption = next(each.value for each in app.code if each.value.startswith("How little"))
    pictures, curve = caption.split(" Accuracy under PGD-20: ")
    assert pictures.endswith("; test image 5 of digits, PGD-10, seed 0.")
    assert curve.endswith(
        "; 200 test images of digits, PGD-20, seed 0; bands: 95% intervals (Wilson)."
    )
    lines = [each.value for each in app.code if each.value.startswith("from robustviz")]
    assert [each.rpartition("\n")[2] for each in lines] == [
        "found",
        f"figures.accuracy_curve(found, here={38 / 255}).show()",
    ]
    assert ["figures" in each.partition("\n")[0] for each in lines] == [False, True]


@pytest.mark.parametrize(
    ("name", "offers", "told", "printed"),
    [
        ("compare", "Numbers (CSV)", "images right under all attacks", "AutoAttack"),
        ("claims", "Numbers (CSV)", "of 9 claims are seen here", "digits | PART"),
        ("budget", "All measured data, networks (npz)", "squares", "clean_k"),
    ],
)
def test_a_screen_of_stored_numbers_gives_them_and_the_lines_that_print_them(
    name, offers, told, printed, visit, capsys
) -> None:
    app = opened(visit, name, name)
    assert offers in offered(app) and not app.error
    assert told in said(app)
    exec(next(each.value for each in app.code if each.value.startswith("from ")), {})
    assert printed in capsys.readouterr().out
