"""Streamlit parts of the Attention page: settings, first screen, PART's budget, maps cell by cell,
overlap with the true object, and ROAD.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from robustviz.runs import catalogue, folder
from robustviz.terms import term
from robustviz.types import MAP_RULES, MASK_RULES, UserError, eps_text
from robustviz.ui import cache, shell, stage, widgets
from robustviz.ui.context import Context
from robustviz.views.attention import figures, overlap_figures, overlay
from robustviz.views.attention.result import (
    METHODS,
    Attention,
    AttentionLevelsSpec,
    AttentionSpec,
    Of,
    OverlapSpec,
    RoadSpec,
    levels_of,
)
from robustviz.views.screen import Control

CLASSES: dict[Of, str] = {"true": "True class", "predicted": "Predicted class"}
CONTROLS = {"none": "Off", "random": "Random weights"}
RULES = (*MASK_RULES, "oracle")
DRAWN = {
    "smooth": "Smooth, over the image",
    "cells": "As cells, over the image",
    "alone": "Smooth, without the image",
}
QUESTION = "Which pixels matter, and how much may an attack change them?"


@dataclass(frozen=True)
class Choice:
    """The settings that the user has chosen on the page.

    `levels`: the spec of the first screen, which covers all positions of the slider; `spec`: the
    spec of the measurement at the chosen ε only; `draw`: how the maps are drawn, a key of `DRAWN`;
    `slider`: the control for ε; `low`: as text, the radius that PART gives to the less important
    pixels; `control`: whether the maps of random weights are displayed too.
    """

    levels: AttentionLevelsSpec
    spec: AttentionSpec
    draw: str
    slider: Control
    low: str
    control: bool


def settings(here: Context) -> Choice:
    """Draw the settings and return the choices. The chosen ε is the position of the first screen's
    slider.
    """
    usual = catalogue.radius(folder.open_model(here.a))
    levels = [str(level) for level in levels_of(usual)]
    slider = Control(
        "Strength of the attack, ε",
        levels,
        levels.index(str(max(1, round(usual * 255)))),
        "eps",
        term("epsilon"),
        "/255",
    )
    level = int(levels[stage.position("eps", levels, slider.start)])
    of: Of = _segments("Map of", CLASSES, "cam", "cam-of") or "true"
    draw = st.selectbox(
        "Draw the maps",
        list(DRAWN),
        format_func=DRAWN.__getitem__,
        **shell.linked("cam-under", "smooth", DRAWN),
    )
    control = _segments(
        "Control maps (under More): the same network with",
        CONTROLS,
        "random weights",
        "cam-control",
    )
    method = st.selectbox(
        "CAM method",
        list(METHODS),
        format_func=METHODS.__getitem__,
        help=term("cam"),
        **shell.linked("cam", "grad_cam", METHODS),
    )
    rule = st.selectbox(
        "Rule of the mask", RULES, help=term("mask"), **shell.linked("cam-rule", "z>1", RULES)
    )
    low, steps, seed = _numbers(level)
    shell.write_address()
    return Choice(
        AttentionLevelsSpec(here.img, method, of, rule, usual, steps, seed),
        AttentionSpec(here.img, method, of, level / 255, low / 255, rule, steps, seed),
        draw=draw,
        slider=slider,
        low="7/8 ε" if low == level * 7 // 8 else eps_text(low / 255),
        control=control == "random",
    )


def _segments(label: str, names: Mapping[Any, str], about: str, key: str) -> Any:
    return st.segmented_control(
        label,
        list(names),
        required=True,
        format_func=names.__getitem__,
        help=term(about),
        **shell.linked(key, next(iter(names)), names),
    )


def _numbers(level: int) -> tuple[int, int, int]:
    """Draw the inputs for ε_low, the number of steps and the seed, and return these three numbers.
    ε_low is in grey levels, from 0 to `level`, the chosen ε in grey levels; by default it is 7/8 of
    `level`, rounded down.
    """
    low = level and st.slider(  # a slider needs a range, so there is none at ε = 0
        "ε_low, for unimportant pixels",
        0,
        level,
        help=term("part"),
        **shell.linked("eps-low", level * 7 // 8, range(level + 1)),
    )
    steps = st.number_input(
        "Steps of PGD", 1, 100, help=term("pgd"), **shell.linked("steps", 10, range(1, 101))
    )
    seed = st.number_input(
        "Seed", 0, 9999, help=term("seed"), **shell.linked("seed", 0, range(10_000))
    )
    return int(low), int(steps), int(seed)


def first(here: Context, chosen: Choice, row: DeltaGenerator) -> None:
    """Draw the first screen and, in `row` below it, its *Take home* menu. Overlaps on many images
    are shown on it only if they are in memory or on disk already.
    """
    found = widgets.measured(here, chosen.levels, "the maps at every ε")
    if not found:
        return
    spec, called = _many(chosen), widgets.names(here)
    known = {
        name: cache.kept(called[name], spec)
        for name, result in found.items()
        if spec and result.object.size
    }
    many = {name: result for name, result in known.items() if result is not None}
    screen = overlay.screen(found, chosen.slider, many=many, draw=chosen.draw, low=chosen.low)
    stage.show("attention", screen)
    with row:
        widgets.take_home("attention", QUESTION, screen, found, chosen.levels)


def measured(here: Context, chosen: Choice) -> dict[str, Attention]:
    """Measure the maps of A and B at the chosen ε; returns them as a dict by the names that the
    page prints. A network that cannot be measured, such as one without feature maps, gets a
    sentence on the page and is left out.
    """
    return widgets.measured(here, chosen.spec, "the maps")


def budgets(results: Mapping[str, Attention], chosen: Choice) -> None:
    """Draw PART's mask and budget for the displayed image, one figure per network."""
    st.subheader("PART's mask and budget", help=term("part"))
    for column, (name, result) in zip(st.columns(2, gap="large"), results.items(), strict=False):
        with column, widgets.place():
            st.markdown(f"**{name}**")
            frame = widgets.Frame(f"budget-{name[0].lower()}", chosen.spec)
            widgets.draw(figures.budget, result, frame)


def maps(results: Mapping[str, Attention], chosen: Choice) -> None:
    """Draw each network's maps cell by cell with their difference, and a histogram of how much of
    PART's budget an attack uses.
    """
    st.subheader("The maps, cell by cell", help=term("rank correlation"))
    st.markdown(
        "Red cells are evidence for the class, teal ones against it; ± is the end of the scale. "
        + ("Scales of A and B cannot be compared. " if len(results) > 1 else "")
        + "A map is evidence, not proof: compare it with a network with random weights"
        " (Settings)."
    )
    for name, result in results.items():
        st.markdown(f"**{name}**")
        with widgets.place():
            widgets.draw(
                figures.attention,
                result,
                widgets.Frame(f"maps-{name[0].lower()}", chosen.spec),
                control=chosen.control,
                image=chosen.draw != "alone",
            )
    widgets.draw(figures.spent, results, widgets.Frame("spent", chosen.spec))


def _many(chosen: Choice) -> OverlapSpec | None:
    """Returns the spec of the overlaps on many images, at each run's own ε; None if the chosen rule
    does not compute the mask from an image's own map.
    """
    image = chosen.levels
    if image.rule not in MAP_RULES:
        return None
    # eps stays None (each run's own radius): `report --overlap` may have measured that already
    return OverlapSpec(method=image.method, of=image.of, rule=image.rule, seed=image.seed)


@widgets.place()
def overlap(here: Context, chosen: Choice, results: Mapping[str, Attention]) -> None:
    """Draw how well the maps of many images lie on the true object, at the chosen ε; or say why
    that cannot be measured, or offer a button that measures it.
    """
    st.subheader("Do the maps lie on the object?", help=term("iou"))
    if not any(result.object.size for result in results.values()):
        raise UserError("Object masks exist only for the data set shapes.")
    spec = _many(chosen)
    if spec is None:
        raise UserError(
            f"The rule {chosen.spec.rule} does not compute one mask from the map: choose one of"
            f" {', '.join(MAP_RULES)}."
        )
    level, usual = (chosen.spec.eps or 0) * 255, catalogue.radius(folder.open_model(here.a)) * 255
    if round(level) != round(usual):
        spec = dataclasses.replace(spec, eps=chosen.spec.eps)
    if many := widgets.measured(here, spec, "the overlap", "about 10 s"):
        widgets.draw(overlap_figures.overlap, many, widgets.Frame("overlap", spec))
    else:
        st.markdown("200 test images, clean and attacked, and the same with random weights.")


def faithful(here: Context, chosen: Choice) -> None:
    """Draw the ROAD scores (how the softmax output changes when the pixels that a map marks as
    important are painted over), or a button that measures them.
    """
    st.subheader("Is the map faithful? ROAD")
    st.markdown(term("road"))
    spec = RoadSpec(method=chosen.spec.method, of=chosen.spec.of, seed=chosen.spec.seed)
    if many := widgets.measured(here, spec, "ROAD", "about 20 s"):
        widgets.draw(overlap_figures.road, many, widgets.Frame("road", spec))
