"""Streamlit parts of the Contributions page: how many features make up a logit, what guided dropout
drops, which pairs logit pairing pulls together, and attacks with more steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from robustviz.runs import folder
from robustviz.runs.naming import method_label
from robustviz.terms import term
from robustviz.ui import cache, networks, stage, widgets
from robustviz.ui.context import Context
from robustviz.ui.networks import label, on
from robustviz.ui.shell import linked, side_colour, write_address
from robustviz.ui.widgets import Frame
from robustviz.views.contributions import screen_figures as drawn
from robustviz.views.contributions.result import (
    AttackStepsSpec,
    CarriedSpec,
    ContributionsSpec,
    Pairing,
    PairingSpec,
)

TITLE = "How many features does an answer rest on?"
OF = {"mean": "Mean of many", "one": "This image"}
COMPARED = ("standard", "pgd_at", "alp", "aalp")  # methods whose curves are drawn beside A and B
WEIGHTS = {
    "own": "as trained",
    "adversarial": "p(y|x')",
    "clean": "p(y|x)",
    "loss": "1/(1 + CE(x'))",
}
COUNTS = (50, 100, 200)


@dataclass(frozen=True)
class Choice:
    """The settings that the user has chosen on the page.

    `of`: whether the curves are of one image (`one`) or the mean of many (`mean`); `n`: the number
    of images, for these and the pairs; `pair_weight`: the weight of a pair, a key of `WEIGHTS`;
    `seed`: of the random draw of dropped features.
    """

    of: str
    n: int
    pair_weight: str
    seed: int

    @property
    def weight(self) -> str:
        """The weight of a pair (a clean image and its attacked copy), as the figures expect it: a
        value of AALP's `pair_weight`, or "" for the run's own.
        """
        return "" if self.pair_weight == "own" else self.pair_weight

    def curves(self, index: int) -> ContributionsSpec:
        """Returns the spec for the curves: of `n` images, or of the image with this index."""
        return ContributionsSpec(n=self.n) if self.of == "mean" else ContributionsSpec(index=index)


def first(here: Context, row: DeltaGenerator) -> None:
    """Draw the first screen: how much of the positive contributions to the true class's logit the
    largest features hold, in A and in B. `row`: the container for the download menu.
    """
    spec, named = CarriedSpec(), widgets.names(here)
    if not (found := widgets.measured(here, spec, "the contributions")):
        return
    alone = ContributionsSpec(index=here.img)
    one = widgets.measured({name: named[name] for name in found}, alone, "this image")
    screen = drawn.screen(
        {name[0].lower(): result for name, result in found.items()},
        {name[0].lower(): result for name, result in one.items()},
        networks.thumbnail(here.a, here.img)[0],
    )
    stage.show("contributions", screen)
    with row:
        widgets.take_home("contributions", TITLE, screen, found, spec)


def settings() -> Choice:
    """Draw the settings of the parts below the first screen, and return what the user chose."""
    of = st.segmented_control(
        "Curves of",
        list(OF),
        required=True,
        format_func=OF.__getitem__,
        help=term("contribution"),
        **linked("of", "mean", OF),
    )
    n = st.segmented_control(
        "Test images, for pairs and curves",
        COUNTS,
        required=True,
        **linked("contributions-n", 100, COUNTS),
    )
    weight = st.selectbox(
        "Weight of a pair",
        list(WEIGHTS),
        format_func=WEIGHTS.__getitem__,
        help=term("aalp"),
        **linked("pair-weight", "own", WEIGHTS),
    )
    seed = st.number_input(
        "Random seed for the dropout draw",
        0,
        9999,
        help=term("seed"),
        **linked("drop-seed", 0, range(10_000)),
    )
    write_address()  # also here: a rerun of this fragment does not run the rest of the page
    return Choice(str(of), int(n), str(weight), int(seed))


def compared(here: Context) -> dict[str, str]:
    """Returns a dict of run ids by the names that figures print: A and B, then one network on the
    same data for each other method in `COMPARED` that has been trained, if possible one with A's
    architecture.
    """
    sides, every = widgets.names(here), on(here.data)
    return sides | {
        method_label(key): min(
            same, key=lambda run: run.architecture != every[here.a].architecture
        ).id
        for key in COMPARED
        if key not in {every[run_id].method_key for run_id in sides.values()}
        and (same := [run for run in every.values() if run.method_key == key])
    }


def curves(here: Context, chosen: Choice) -> None:
    """Draw a curve for each network of `compared`: the share of the positive contributions that the
    largest features hold, against their number.
    """
    from robustviz.views.contributions import figures

    spec = chosen.curves(here.img)
    if found := widgets.measured(compared(here), spec, "the contributions"):
        widgets.draw(figures.contributions, found, Frame("share", spec))


def strips(here: Context, chosen: Choice) -> None:
    """Draw which features one draw of guided dropout would drop for the displayed image, in one
    figure per network.
    """
    from robustviz.views.contributions import figures

    spec = ContributionsSpec(index=here.img, seed=chosen.seed)
    st.subheader("Which features would guided dropout drop?", help=term("guided dropout"))
    st.markdown(
        "Contributions have a sign. Most of those that count as low are negative: they lower"
        " the class's logit."
    )
    for (side, run_id), column in _columns(here):
        with column, widgets.place():
            result = cache.answer(run_id, spec)
            _name(side, run_id)
            widgets.draw(figures.dropped, result, Frame(f"dropped-{side}", spec), side=side)


def pairs(here: Context, chosen: Choice) -> dict[str, Pairing]:
    """Draw how strongly logit pairing would pull each image and its attacked copy together, and the
    images that the user selects in the figures. Returns the results as a dict by the networks'
    names, such as `A PGD-AT`.
    """
    from robustviz.views.contributions import figures

    st.subheader("Which pairs does logit pairing pull together?", help=term("alp"))
    spec = PairingSpec(n=chosen.n)
    found = widgets.measured(here, spec, "pairing", "" if chosen.n <= 100 else "about 5 s")
    by_run = {result.meta["run"]: result for result in found.values()}
    picked = list[int]()
    for (side, run_id), column in _columns(here):
        if run_id in by_run:
            with column:
                _name(side, run_id)
                picked += widgets.draw(
                    figures.pairing,
                    by_run[run_id],
                    Frame(f"pairing-{side}", spec, brush=True),
                    side=side,
                    weight=chosen.weight,
                )
    widgets.thumbnails(here, list(dict.fromkeys(picked)), "pairs")
    return found


def opposing(chosen: Choice, found: dict[str, Pairing]) -> None:
    """Draw on how many images the gradients of the pairing loss and of cross-entropy oppose each
    other.
    """
    from robustviz.views.contributions import figures

    if found:
        spec = PairingSpec(n=chosen.n)
        widgets.draw(figures.opposition, found, Frame("opposition", spec), weight=chosen.weight)
        st.markdown(
            "Each image has two gradients with respect to all weights: of the pairing loss, and"
            " of cross-entropy. They oppose each other where their cosine is below 0. A pair's"
            " weight never changes the direction of a gradient, only how much the image counts."
        )


def steps(here: Context) -> None:
    """Draw accuracy against up to 1000 attack steps, and under Square; a button starts the
    measurement.
    """
    from robustviz.views.contributions import steps_figures

    st.subheader("Is the gradient masked?", help=term("gradient masking"))
    st.markdown(
        "PGD with up to 1000 steps from one start, and Square, which needs no gradient, on 50"
        " images."
    )
    spec = AttackStepsSpec()
    if found := widgets.measured(here, spec, "1000 steps", "about 20 s"):
        widgets.draw(steps_figures.attack_steps, found, Frame("steps", spec))


def _columns(here: Context) -> Iterator[tuple[tuple[str, str], DeltaGenerator]]:
    """Yields for each network ((side, run id), the page's column for it)."""
    return zip(here.sides, st.columns(len(here.sides), gap="large"), strict=True)


def _name(side: str, run_id: str) -> None:
    st.markdown(f":{side_colour(side)}[**{side.upper()}**] {label(folder.open_model(run_id))}")
