"""The quadrant puzzle: guess in which quarter of the image a smaller training radius costs least,
then read what was measured.
"""

from __future__ import annotations

import functools

import streamlit as st

from robustviz.imports import load
from robustviz.runs import folder
from robustviz.terms import term
from robustviz.types import JSON, eps_text
from robustviz.ui import shell, widgets
from robustviz.ui.context import Context
from robustviz.views.pictures import sheet
from robustviz.views.quadrants import figures
from robustviz.views.quadrants.result import Quadrants


@shell.fragment
def puzzle(here: Context) -> None:
    """Draw the puzzle: in which quadrant of the image does a smaller training ε cost least accuracy
    under attack? The result appears on *Reveal*, or at once on a page opened by a link with a
    guess.
    """
    st.session_state.setdefault("quadrant-linked", "quadrant" in st.query_params)
    st.subheader("Puzzle: in which quarter of the image does a smaller training ε cost least?")
    with widgets.place():
        study = load("robustviz.views.quadrants.study")
        file = study.file_of(study.Study.data)
        result = _study(file.stat().st_mtime_ns if file.exists() else 0)
        meta, names = result.meta, result.names[: len(study.PLACES)]
        _, x, _ = load("robustviz.views.measure").image_of(folder.open_model(here.a), here.img)
        left, right = st.columns([1, 2], gap="large")
        with left:
            row, column = x.shape[2] // 2, x.shape[3] // 2
            tiles = [
                x[0, :, rows, columns].numpy()
                for rows in (slice(row), slice(row, 2 * row))
                for columns in (slice(column), slice(column, 2 * column))
            ]
            with st.container(width=230):
                widgets.fitted(
                    sheet(tiles, 112, columns=2), f"Test image {here.img} cut into four quadrants"
                )
        with right:
            st.markdown(
                f"A network on {meta['data']} is trained with ε = {eps_text(meta['eps'])}, but one"
                f" quadrant gets only {eps_text(meta['eps_low'])}. All are tested alike:"
                f" {meta['attack']} with {eps_text(meta['test_eps'])} everywhere. Where does the"
                " smaller ε cost the least accuracy under attack?"
            )
            picked = st.radio(
                "Your guess",
                names,
                index=None,
                format_func=lambda name: name.replace("-", " ").capitalize(),
                horizontal=True,
                help=term("part"),
                **shell.linked("quadrant", None, [None, *names]),
            )
            shell.write_address()
            if picked is None:
                st.markdown("Choose one, then see what training shows.")
                return
            if st.button(
                "Reveal", type="primary", key="quadrant-reveal", icon=":material/visibility:"
            ):
                st.session_state["quadrant-revealed"] = True
        if st.session_state.get("quadrant-revealed") or st.session_state["quadrant-linked"]:
            _answer(result, picked)


@functools.lru_cache(maxsize=1)
def _study(stamp: int) -> Quadrants:
    study = load("robustviz.views.quadrants.study")
    result: Quadrants = study.result_of(study.read())
    return result


def _answer(result: Quadrants, picked: str) -> None:
    sentence = widgets.drawn(figures.quadrants, result, picked=picked).layout.meta["sentence"]
    frame = widgets.Frame("quadrants", None, words=f"{sentence}\n\n{_paper(result.meta)}")
    widgets.draw(figures.quadrants, result, frame, picked=picked)
    st.markdown(
        "The numbers of each network, on the command line: `python -m"
        " robustviz.views.quadrants.study --report`"
    )


def _paper(meta: JSON) -> str:
    """Sentences on the results that PART's authors report."""
    theirs = " ".join(
        f"Smaller radius {name.replace('-', ' ')}: {clean:.2f}% clean, {robust:.2f}% PGD-20."
        for name, (clean, robust) in meta["paper"].items()
    )
    return (
        "**The paper** has ResNet-18 on CIFAR-10, with 6/255 in one quadrant and 12/255 elsewhere."
        f" {theirs} It gives two of the four, no seeds and no intervals (Zhang et al. 2024, figure"
        " in their repository)."
    )
