"""The parts of the Attention page: controls, one network's maps and budget, what is spent, overlap
with the object, ROAD.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import streamlit as st

from robustviz.runs import folder
from robustviz.terms import term
from robustviz.types import MAP_RULES, MASK_RULES, UserError, eps_text
from robustviz.ui import shell, widgets
from robustviz.ui.context import Context, label
from robustviz.views.attention import figures, overlap_figures
from robustviz.views.attention.figures import METHODS
from robustviz.views.attention.result import Attention, AttentionSpec, Of, OverlapSpec, RoadSpec
from robustviz.views.pictures import sheet

CLASSES: dict[Of, str] = {"true": "True class", "predicted": "Predicted class"}
CONTROLS = {"none": "Off", "random": "Random weights"}
RULES = (*MASK_RULES, "oracle")
UNDER = {"no": "Maps alone", "yes": "Over the image"}


@dataclass(frozen=True)
class Choice:
    """What is asked of one image, and what else is drawn: the map of random weights, the image
    under the maps.
    """

    spec: AttentionSpec
    control: bool
    under: bool


def controls(here: Context) -> Choice:
    """Draw the controls."""
    a, b = st.columns(2, vertical_alignment="bottom")
    of = a.segmented_control(
        "Map of",
        list(CLASSES),
        required=True,
        format_func=CLASSES.__getitem__,
        help=term("cam"),
        **shell.linked("cam-of", "true", CLASSES),
    )
    control = b.segmented_control(
        "Control: the same network with",
        list(CONTROLS),
        required=True,
        format_func=CONTROLS.__getitem__,
        help=term("random weights"),
        **shell.linked("cam-control", "none", CONTROLS),
    )
    level, low = _radii(folder.open_model(here.a).eps)
    with st.expander("More settings", icon=":material/settings:"):
        a, b, c = st.columns(3)
        method = a.selectbox(
            "CAM method",
            list(METHODS),
            format_func=METHODS.__getitem__,
            help=term("cam"),
            **shell.linked("cam", "grad_cam", METHODS),
        )
        rule = b.selectbox(
            "Rule of the mask", RULES, help=term("mask"), **shell.linked("cam-rule", "z>1", RULES)
        )
        under = c.selectbox(
            "Draw the maps",
            list(UNDER),
            format_func=UNDER.__getitem__,
            **shell.linked("cam-under", "no", UNDER),
        )
        a, b, _ = st.columns(3)
        steps = a.number_input(
            "Steps of PGD", 1, 100, help=term("pgd"), **shell.linked("steps", 10, range(1, 101))
        )
        seed = b.number_input(
            "Seed", 0, 9999, help=term("seed"), **shell.linked("seed", 0, range(10_000))
        )
    shell.write_address()
    return Choice(
        AttentionSpec(
            here.img, method, of or "true", level / 255, low / 255, rule, int(steps), int(seed)
        ),
        control=control == "random",
        under=under == "yes",
    )


def _radii(usual: float) -> tuple[int, int]:
    """ε and ε_low in grey levels."""
    left, right = st.columns(2)
    start = round(usual * 255)
    top = max(16, min(255, 2 * start))
    level = left.slider(
        f"ε in grey levels of 255 (trained for {eps_text(usual)})",
        0,
        top,
        help=term("epsilon"),
        **shell.linked("eps", start, range(top + 1)),
    )
    if not level:  # a slider needs a span
        return 0, 0
    low = right.slider(
        "ε_low, for unimportant pixels",
        0,
        int(level),
        help=term("part"),
        **shell.linked("eps-low", level * 7 // 8, range(level + 1)),
    )
    return int(level), int(low)


def measured(here: Context, chosen: Choice) -> dict[str, Attention]:
    """The maps of A and B by printed name; a network that has none gets a sentence instead."""
    return widgets.measured(here, chosen.spec, "the maps")


def overview(results: Mapping[str, Attention]) -> None:
    """The image itself, and attacked on each network; how the maps that follow are read."""
    first = next(iter(results.values()))
    names = ", ".join(["clean", *(f"attacked on {name}" for name in results)])
    st.image(
        sheet([first.x, *(result.x_adv for result in results.values())], 128),
        alt=f"Test image {first.meta['index']}: {names}",
    )
    st.markdown(f"Left to right: {names}.")
    st.markdown(
        "Red cells speak for the class, blue ones against it; ± is the end of the scale. "
        + ("Scales of A and B cannot be compared. " if len(results) > 1 else "")
        + "A map is evidence, not proof: put random weights beside it.",
        help=term("rank correlation"),
    )


def one_network(side: str, run_id: str, result: Attention, chosen: Choice) -> None:
    """One network's row: its maps, then the mask and the budget made of them."""
    st.subheader(f":{shell.side_colour(side)}[{side.upper()}] · {label(folder.open_model(run_id))}")
    left, right = st.columns([3, 2], gap="large")
    with left, widgets.place():
        widgets.draw(
            figures.attention,
            result,
            widgets.Frame(f"maps-{side}", chosen.spec),
            control=chosen.control,
            image=chosen.under,
        )
    with right, widgets.place():
        widgets.draw(figures.budget, result, widgets.Frame(f"budget-{side}", chosen.spec))


def spent(results: Mapping[str, Attention], chosen: Choice) -> None:
    """How the attack within the budget uses it."""
    if results:
        widgets.draw(figures.spent, results, widgets.Frame("spent", chosen.spec))


@widgets.place()
def overlap(here: Context, chosen: Choice, results: Mapping[str, Attention]) -> None:
    """Many maps against the true object, where that is known."""
    st.subheader("Do the maps lie on the object?", help=term("iou"))
    image = chosen.spec
    if not any(result.object.size for result in results.values()):
        raise UserError("Where the object is, is known for the data shapes only.")
    if image.rule not in MAP_RULES:
        raise UserError(
            f"The rule {image.rule} makes no mask from the map itself: choose one of"
            f" {', '.join(MAP_RULES)}."
        )
    # at its usual radius each run has its own, which `report --overlap` has measured perhaps
    usual = round((image.eps or 0) * 255) == round(folder.open_model(here.a).eps * 255)
    spec = OverlapSpec(
        method=image.method,
        of=image.of,
        rule=image.rule,
        eps=None if usual else image.eps,
        seed=image.seed,
    )
    if many := widgets.measured(here, spec, "the overlap", "about 10 s"):
        widgets.draw(overlap_figures.overlap, many, widgets.Frame("overlap", spec))
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
            spec = RoadSpec(method=chosen.spec.method, of=chosen.spec.of, seed=chosen.spec.seed)
            if many := widgets.measured(here, spec, "ROAD", "about 20 s"):
                widgets.draw(overlap_figures.road, many, widgets.Frame("road", spec))
