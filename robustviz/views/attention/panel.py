"""The parts of the Attention page: controls, one network's maps and budget, what is spent, overlap
with the object, ROAD.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import streamlit as st

from robustviz import figures
from robustviz.export import Recipe
from robustviz.runs import folder
from robustviz.terms import term
from robustviz.types import eps_text
from robustviz.ui import widgets
from robustviz.ui.context import Context, label
from robustviz.ui.shell import linked, side_colour, write_address
from robustviz.views.attention.figures import METHODS
from robustviz.views.attention.result import Attention

CLASSES = {"true": "True class", "predicted": "Predicted class"}
CONTROLS = {"none": "Off", "random": "Random weights"}
UNDER = {"no": "Maps alone", "yes": "Over the image"}
RULES = ("z>1", "z>0", "heat>0.5", "top20%", "ones", "shuffled", "jet-compat", "oracle")
MASKS = ("z>1", "z>0", "heat>0.5", "top20%")  # those that can be laid over the object


@dataclass(frozen=True)
class Choice:
    """What is chosen: whose map and how it is made, radii in grey levels, the mask's rule, the
    attack, what else is drawn.
    """

    method: str
    of: str
    level: int
    low: int
    rule: str
    steps: int
    seed: int
    control: bool
    under: bool

    def settings(self, img: int) -> dict[str, Any]:
        """The probe's settings for a test image."""
        return {
            "index": img,
            "method": self.method,
            "of": self.of,
            "eps": self.level / 255,
            "eps_low": self.low / 255,
            "rule": self.rule,
            "steps": self.steps,
            "seed": self.seed,
        }

    @property
    def maps(self) -> dict[str, Any]:
        """The settings of the probes of many images: what is not named has their default."""
        return {"method": self.method, "of": self.of, "seed": self.seed}


def controls(here: Context) -> Choice:
    """Draw the controls."""
    run = folder.open_model(here.a)
    usual = round(run.eps * 255)
    top = max(16, min(255, 2 * usual))
    a, b = st.columns(2, vertical_alignment="bottom")
    of = a.segmented_control(
        "Map of",
        list(CLASSES),
        required=True,
        format_func=CLASSES.__getitem__,
        help=term("cam"),
        **linked("cam-of", "true", CLASSES),
    )
    control = b.segmented_control(
        "Control: the same network with",
        list(CONTROLS),
        required=True,
        format_func=CONTROLS.__getitem__,
        help=term("random weights"),
        **linked("cam-control", "none", CONTROLS),
    )
    a, b = st.columns(2)
    title = f"ε in grey levels of 255 (trained for {eps_text(run.eps)})"
    level = int(
        a.slider(title, 0, top, help=term("epsilon"), **linked("eps", usual, range(top + 1)))
    )
    low = 0
    if level:  # a slider needs a span
        low = int(
            b.slider(
                "ε_low, for unimportant pixels",
                0,
                level,
                help=term("part"),
                **linked("eps-low", level * 7 // 8, range(level + 1)),
            )
        )
    with st.expander("More settings", icon=":material/settings:"):
        a, b, c = st.columns(3)
        method = a.selectbox(
            "CAM method",
            list(METHODS),
            format_func=METHODS.__getitem__,
            help=term("cam"),
            **linked("cam", "grad_cam", METHODS),
        )
        rule = b.selectbox(
            "Rule of the mask", RULES, help=term("mask"), **linked("cam-rule", "z>1", RULES)
        )
        under = c.selectbox(
            "Draw the maps",
            list(UNDER),
            format_func=UNDER.__getitem__,
            **linked("cam-under", "no", UNDER),
        )
        a, b, _ = st.columns(3)
        steps = a.number_input(
            "Steps of PGD", 1, 100, help=term("pgd"), **linked("steps", 10, range(1, 101))
        )
        seed = b.number_input(
            "Seed", 0, 9999, help=term("seed"), **linked("seed", 0, range(10_000))
        )
    write_address()
    return Choice(
        str(method),
        str(of or "true"),
        level,
        low,
        str(rule),
        int(steps),
        int(seed),
        control == "random",
        under == "yes",
    )


def measured(here: Context, chosen: Choice) -> dict[str, Attention]:
    """The maps of A and B by printed name; a network that has none gets a sentence instead."""
    return widgets.measured(here, "attention", "the maps", **chosen.settings(here.img))


def one_network(side: str, run_id: str, found: Attention, here: Context, chosen: Choice) -> None:
    """One network's row: its maps, then the mask and the budget made of them."""
    st.subheader(f":{side_colour(side)}[{side.upper()}] · {label(folder.open_model(run_id))}")
    settings = chosen.settings(here.img)
    left, right = st.columns([3, 2], gap="large")
    with left, widgets.place():
        options = {"control": True} if chosen.control else {}
        options |= {"image": True} if chosen.under else {}
        widgets.draw(
            found, Recipe({"": run_id}, "attention", "attention", settings, options), f"maps-{side}"
        )
    with right, widgets.place():
        widgets.draw(found, Recipe({"": run_id}, "attention", "budget", settings), f"budget-{side}")


def legend(found: dict[str, Attention]) -> None:
    """How the maps are read."""
    several = "Scales of A and B cannot be compared. " if len(found) > 1 else ""
    st.markdown(
        f"Red cells speak for the class, blue ones against it; ± is the end of the scale. {several}"
        "A map is evidence, not proof: put random weights beside it.",
        help=term("rank correlation"),
    )


def spent(found: dict[str, Attention], here: Context, chosen: Choice) -> None:
    """How the attack within the budget uses it."""
    if found:
        widgets.draw(
            found,
            Recipe(widgets.runs_of(found), "attention", "spent", chosen.settings(here.img)),
            "spent",
        )


def overlap(here: Context, chosen: Choice, found: dict[str, Attention]) -> None:
    """Many maps against the true object, where that is known."""
    st.subheader("Do the maps lie on the object?", help=term("iou"))
    if not any(one.object.size for one in found.values()):
        st.info("Where the object is, is known for the data shapes only.", icon=":material/info:")
        return
    if chosen.rule not in MASKS:
        st.info(
            f"The rule {chosen.rule} makes no mask from the map itself: choose one of"
            f" {', '.join(MASKS)}.",
            icon=":material/info:",
        )
        return
    settings = chosen.maps | {"rule": chosen.rule}
    if chosen.level != round(
        folder.open_model(here.a).eps * 255
    ):  # else each run's own, which `report --overlap` has measured perhaps
        settings["eps"] = chosen.level / 255
    many = widgets.measured(here, "overlap", "the overlap", "about 10 s", **settings)
    if many:
        widgets.draw(many, Recipe(widgets.runs_of(many), "overlap", "overlap", settings), "overlap")
    else:
        st.markdown("200 test images, clean and attacked, and the same with random weights.")


def faithful(here: Context, chosen: Choice) -> None:
    """ROAD, which paints over what a map calls important and looks whether the answer minds."""
    with st.expander(
        "Is the map faithful? ROAD",
        icon=":material/fact_check:",
        on_change="rerun",
        key="road-open",
    ) as box:
        if box.open:
            st.markdown(term("road"))
            many = widgets.measured(here, "road", "ROAD", "about 20 s", **chosen.maps)
            if many:
                widgets.draw(
                    many, Recipe(widgets.runs_of(many), "road", "road", chosen.maps), "road"
                )


def pictures(found: dict[str, Attention]) -> None:
    """The image itself, and attacked on each network."""
    first = next(iter(found.values()))
    said = ", ".join(["clean", *(f"attacked on {name}" for name in found)])
    images = [first.x, *(one.x_adv for one in found.values())]
    st.image(figures.sheet(images, 128), alt=f"Test image {first.meta['index']}: {said}")
    st.markdown(f"Left to right: {said}.")
