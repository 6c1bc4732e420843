"""Tests loss grids that are refined only where the loss bends: the page requests them, and states
this and their error.
"""

from __future__ import annotations

from tests.pages.conftest import sound, words


def test_the_finest_grid_is_refined_and_says_so(visit, few):
    app = sound(visit("soft_labels", data="digits", img=3, grid=51))
    assert "Of 5,202 points" in words(app) and "in the loss to the true class" in words(app)
    app.selectbox(key="grid").set_value(41).run()
    assert "interpolated" not in words(sound(app))


def test_the_surface_around_the_weights_can_be_refined(visit, few):
    app = visit("soft_labels", data="digits")
    app.session_state["more-loss"] = True
    app.run()
    assert "21 × 21 on 128 images" in app.button(key="measure-weight_surface").label
    app.selectbox(key="weights-grid").set_value(51).run()
    assert "51 × 51 on 128 images" in app.button(key="measure-weight_surface").label
    assert app.query_params["weights-grid"] in ("51", ["51"])
