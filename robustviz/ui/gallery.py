"""A dialog in which the user chooses a test image from thumbnails."""

from __future__ import annotations

import numpy as np
import streamlit as st

from robustviz.imports import load
from robustviz.runs import folder
from robustviz.stats import Ints
from robustviz.training.evaluation import Evaluation
from robustviz.types import eps_text
from robustviz.ui import networks, widgets
from robustviz.ui.context import Context, choose

PAGE = 24  # thumbnails per page
BOTH = ("A fooled, B right", "Both fooled", "Both right")
ONE = ("A fooled", "A right")


@st.dialog("Choose an image by looking", width="large")
def drawer(here: Context) -> None:
    """Draw a dialog with thumbnails of test images, each with a button that selects the image in
    all views.
    """
    groups, words = groups_of(here)
    kind = st.segmented_control(
        "Show", [*groups, "By class"], default=next(iter(groups), "By class"), required=True
    )
    indices = groups[kind] if kind in groups else _of_class(here)
    if kind in groups:
        st.markdown(f"{len(indices)} images. {words}")
    if not len(indices):
        st.markdown("There is no such image: choose another group.")
        return
    pages = -(-len(indices) // PAGE)
    page = 1
    if pages > 1:
        page = int(
            st.number_input(f"Page, 1 to {pages}", 1, pages, width=160, key=f"gallery-page-{kind}")
        )
    with st.container(horizontal=True, key="gallery-tiles"):
        for index in map(int, indices[PAGE * (page - 1) : PAGE * page]):
            with st.container(width=84):
                picture, name = networks.thumbnail(here.a, index)
                widgets.fitted(picture, f"Test image {index}: {name}")
                if st.button(
                    f"{index}",
                    key=f"gallery-{index}",
                    width="stretch",
                    help=f"Show image {index} ({name}) in every view",
                    on_click=choose,
                    args=(index,),
                ):
                    st.rerun()


def groups_of(here: Context) -> tuple[dict[str, Ints], str]:
    """Test images in groups, according to which networks an attack fools, and two sentences about
    this attack. The groups are a dictionary from names to indices of images, ascending.

    The names are those in `BOTH`, or in `ONE` for a single network. Images that fool B only, and
    images that a network misclassifies without an attack, are in no group. Returns ({}, "") if the
    networks have no evaluation on the same images under the same attack.
    """
    found = _alike(here)
    if not found:
        return {}, ""
    verdicts = [each.right() for each in found]
    clean = np.logical_and.reduce([right for right, _ in verdicts])
    holds = [right for _, right in verdicts]
    if len(found) == 1:
        masks = dict(zip(ONE, (~holds[0], holds[0]), strict=True))
    else:
        a, b = holds
        masks = dict(zip(BOTH, (~a & b, ~a & ~b, a & b), strict=True))
    first = found[0]
    words = (
        f"Attack: {first.printed}, ε = {eps_text(first.eps)}. Untouched, all of them are"
        " classified correctly."
    )
    return {name: np.flatnonzero(mask & clean) for name, mask in masks.items()}, words


def _alike(here: Context) -> list[Evaluation]:
    """For each network one evaluation with results per image, all on the same images under the same
    attack: A's usual one if B has the same, else those on the most images; empty if there are none.
    """
    runs = [folder.open_model(run_id) for _, run_id in here.sides]
    kept = [[each for each in networks.evaluations(run.id) if each.robust_right] for run in runs]
    if not all(kept):
        return []
    usual = runs[0].evaluation()
    if len(kept) == 1:
        return sorted(kept[0], key=lambda each: (each != usual, -each.n))[:1]
    pairs = [
        [one, two]
        for one in kept[0]
        for two in kept[1]
        if (one.attack, one.eps, one.n, one.seed, one.images)
        == (two.attack, two.eps, two.n, two.seed, two.images)
    ]
    return max(pairs, key=lambda pair: (pair[0] == usual, pair[0].n), default=[])


def _of_class(here: Context) -> Ints:
    """Draw a picker for a class, and return the indices of its test images."""
    split = load("robustviz.views.measure").images_of(folder.open_model(here.a))
    names = list(split.classes)
    chosen = st.selectbox("Class", names, key="gallery-class")
    indices = np.flatnonzero(split.y.numpy() == names.index(chosen or names[0]))
    st.markdown(f"{len(indices)} images of this class.")
    return indices
