"""The part "What if you chose the pixels?": a canvas on which the user paints the pixels that the
attack may change, and the result of that attack.
"""

from __future__ import annotations

import base64
import functools
from pathlib import Path

import numpy as np
import streamlit as st
from streamlit.components.v2.types import ComponentRenderer

from robustviz.imports import load
from robustviz.runs import catalogue, folder
from robustviz.stats import Bools
from robustviz.terms import term
from robustviz.types import UserError, eps_text, grey_text
from robustviz.ui import shell, widgets
from robustviz.ui.context import Context
from robustviz.views import pictures
from robustviz.views.paint import figures
from robustviz.views.paint.result import NAMED, Painted, PaintedSpec, from_text, grid, to_text

# masks whose pixels do not depend on the network
FIXED = tuple(name for name in NAMED if name not in ("strongest", "part"))
BUTTONS = {  # label and help text; the buttons are also how keyboard users paint whole areas
    "centre": ("Centre", "The middle quarter of the image."),
    "edge": ("Edge", "A frame of about a quarter of the image."),
    "strongest": (
        "Strongest pixels",
        (
            "The quarter of the pixels where the loss of model A is steepest: the largest input"
            " gradient."
        ),
    ),
    "part": (
        "PART mask",
        "The pixels that PART calls important for model A: Grad-CAM at the true class, z > 1.",
    ),
    "all": ("All", "Every pixel, as in the attacks used for robust accuracy."),
    "none": ("Clear", "No pixel."),
}


@functools.cache
def canvas() -> ComponentRenderer:
    """The painting canvas as a Streamlit component; its three source files are read only once."""
    html, css, js = (
        Path(__file__).with_name(f"canvas.{kind}").read_text(encoding="utf-8")
        for kind in ("html", "css", "js")
    )
    return st.components.v2.component("robustviz.paint", html=html, css=css, js=js)


class Masks:
    """The set of masks allowed in the page's address, for the operator `in`: a name in `FIXED`, or
    a painted mask as text that fits a grid of `rows` by `columns` cells.
    """

    def __init__(self, rows: int, columns: int) -> None:
        self.rows, self.columns = rows, columns

    def __contains__(self, text: object) -> bool:
        try:
            return isinstance(text, str) and (
                text in FIXED or from_text(text, self.rows, self.columns) is not None
            )
        except UserError:
            return False


@shell.fragment
def what_if(here: Context, steps: int, seed: int) -> None:
    """Draw the part of the page on painted budgets. `steps` and `seed` of the attack are those of
    the page, so that the attack with the full ε everywhere gives the same prediction as elsewhere
    on the page. If the page was opened by a link with a mask, the attack with this mask is run and
    shown at once.
    """
    st.session_state.setdefault("paint-linked", "paint" in st.query_params)
    st.subheader("What if you chose the pixels? Paint the attack's budget")
    with widgets.place():
        run = folder.open_model(here.a)
        left, right = st.columns(2, gap="large")
        with left:
            cells = _painting(here, run)
        with right:
            spec = _attack(here, run, cells, steps, seed)
            results = widgets.measured(here, spec, "the painted attack") if spec else {}
            if results:
                st.markdown(widgets.drawn(figures.painted, results).layout.meta["sentence"])
        if spec and results:
            # new columns: in a narrow window they come below the button
            left, right = st.columns(2, gap="large")
            with left:
                for name, result in results.items():
                    _pictures(name, result)
            with right:
                widgets.draw(figures.painted, results, widgets.Frame("painted", spec, words=""))


def _painting(here: Context, run: folder.Run) -> Bools:
    """Draw the buttons and the canvas. Returns which cells (rows, columns) get the full ε."""
    split, x, y = load("robustviz.views.measure").image_of(run, here.img)
    height, width = x.shape[2:]
    rows, columns, side = grid(height, width)
    shell.linked("paint", "centre", Masks(rows, columns))
    with st.container(horizontal=True, key="paint-buttons"):
        for name, (label, text) in BUTTONS.items():
            st.button(label, key=f"paint-{name}", help=text, on_click=_fill, args=(here, name))
    if fault := st.session_state.pop("paint-fault", ""):
        st.info(shell.spoken(UserError(fault)), icon=":material/info:")
    cells = _cells(run, here.img, st.session_state["paint"])
    image = base64.b64encode(pictures.png(x[0].numpy(), max(height, width))).decode()
    canvas()(
        key="canvas",
        on_mask_change=_painted,
        data={
            "rows": rows,
            "columns": columns,
            "side": side,
            "width": width,
            "height": height,
            "mask": to_text(cells),
            "turn": f"{here.a} {here.img} {st.session_state.get('paint-turn', 0)}",
            "image": f"data:image/png;base64,{image}",
            "unit": "pixels" if side == 1 else f"blocks of {side}×{side} pixels",
            "label": (
                f"Test image {here.img}, {split.classes[int(y)]}: paint which pixels the"
                " attacker may change"
            ),
        },
    )
    return cells


def _cells(run: folder.Run, index: int, mask: str) -> Bools:
    """Which cells of an image a mask selects, (rows, columns). Imports torch when called."""
    cells: Bools = load("robustviz.views.paint.probe").cells_of(run, index, mask)
    return cells


def _fill(here: Context, name: str) -> None:
    """Callback of a button: select the whole area that is called `name`.
    A mask that depends on the network is computed for model A and stored cell by cell, so that B
    gets the same pixels. An error is stored, and shown below the buttons.
    """
    state = st.session_state
    try:
        state["paint"] = (
            name if name in FIXED else to_text(_cells(folder.open_model(here.a), here.img, name))
        )
        state["paint-turn"] = state.get("paint-turn", 0) + 1
    except UserError as error:
        state["paint-fault"] = str(error)


def _painted() -> None:
    """Callback of the canvas: store a finished stroke's mask. It is validated where it is used."""
    if stroke := st.session_state["canvas"].get("mask"):
        st.session_state["paint"] = str(stroke).rpartition(" ")[2]


def _attack(
    here: Context, run: folder.Run, cells: Bools, steps: int, seed: int
) -> PaintedSpec | None:
    """Draw the sliders and the button. Returns the spec if the button was pressed, or the page was
    opened by a link with a mask, for the present mask, settings and networks; else None.
    """
    usual, state = max(1, round(catalogue.radius(run) * 255)), st.session_state
    top = max(16, min(255, 2 * usual))
    level = st.slider(
        "ε on the painted pixels, in grey levels of 255",
        1,
        top,
        help=term("epsilon"),
        **shell.linked("paint_eps", usual, range(1, top + 1)),
    )
    low = st.slider(
        "ε elsewhere, in grey levels",
        0,
        int(level),
        help=term("part"),
        **shell.linked("paint_low", 0, range(int(level) + 1)),
    )
    shell.write_address()
    spec = PaintedSpec(here.img, state["paint"], int(level) / 255, int(low) / 255, steps, seed)
    asked = [here.sides, spec]
    if state["paint-linked"]:  # opened by a link: show its result
        state.setdefault("paint-asked", asked)
    if st.button(
        "Attack within this budget", type="primary", key="paint-attack", icon=":material/bolt:"
    ):
        state["paint-asked"] = asked
    if state.get("paint-asked") == asked:
        return spec
    st.markdown(
        f"{cells.mean():.0%} of the image may change by {level}/255, the rest by {low}/255. "
        + (
            "The budget has changed: attack again."
            if "paint-asked" in state
            else "Attack to see whether that is enough."
        )
    )
    return None


def _pictures(name: str, result: Painted) -> None:
    # grey levels that differ from the page's white or black background
    budget = np.where(result.mask, 0.8, 0.15 + 0.65 * result.eps_low / result.eps)[None]
    widgets.picture(
        pictures.sheet(
            [result.x, result.x_adv, pictures.delta(result.x, result.x_adv, result.eps), budget],
            128,
        ),
        f"**{name}**, left to right: clean, attacked, the change × {pictures.gain(result.eps):.3g},"
        f" the budget (light: {eps_text(result.eps)}, dark: {eps_text(result.eps_low)})."
        f" Largest change: {grey_text(result.inside)} on painted pixels,"
        f" {grey_text(result.outside)} elsewhere.",
        f"painted-{name[0].lower()}",
    )
