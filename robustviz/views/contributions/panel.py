"""The parts of the Contributions page: how few features carry an answer, what is dropped, which
pairs are pulled, more steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import streamlit as st

from robustviz.export import Recipe
from robustviz.runs import folder
from robustviz.terms import term
from robustviz.ui import cache, context, widgets
from robustviz.ui.context import Context, label
from robustviz.ui.shell import linked, side_colour, write_address

OF = {"mean": "Mean of many", "one": "This image"}
COMPARED = ("standard", "pgd_at", "alp", "aalp")  # the methods of the curves, besides A and B
WEIGHTS = {
    "own": "as trained",
    "adversarial": "p(y|x')",
    "clean": "p(y|x)",
    "loss": "1/(1 + CE(x'))",
}
COUNTS = (50, 100, 200)


@dataclass(frozen=True)
class Choice:
    """What is chosen: one image or the mean, how many images, the pairs' weight, the seed of
    dropout's draw.
    """

    of: str
    n: int
    weight: str
    seed: int

    @property
    def options(self) -> dict[str, Any]:
        """The weight as the figures take it."""
        return {} if self.weight == "own" else {"weight": self.weight}


def controls() -> Choice:
    """Draw the controls."""
    left, right = st.columns(2, vertical_alignment="bottom")
    with left:
        of = st.segmented_control(
            "Curves of",
            list(OF),
            required=True,
            format_func=OF.__getitem__,
            help=term("contribution"),
            **linked("of", "mean", OF),
        )
    with right:
        n = st.segmented_control(
            "Test images", COUNTS, required=True, **linked("contributions-n", 100, COUNTS)
        )
    with st.expander("More settings", icon=":material/settings:"):
        a, b = st.columns(2)
        weight = a.selectbox(
            "Weight of a pair",
            list(WEIGHTS),
            format_func=WEIGHTS.__getitem__,
            help=term("aalp"),
            **linked("pair-weight", "own", WEIGHTS),
        )
        seed = b.number_input(
            "Seed of the dropped features",
            0,
            9999,
            help=term("seed"),
            **linked("drop-seed", 0, range(10_000)),
        )
    write_address()
    return Choice(str(of or "mean"), int(n or 100), str(weight), int(seed))


def compared(here: Context) -> dict[str, str]:
    """Run ids by printed name: A and B, then on the same data one network of each other compared
    method, like A's if there is one.
    """
    out, every = widgets.names(here), context.on(here.data)
    there = {every[run_id].method_key for run_id in out.values()}
    for key in COMPARED:
        same = [run for run in every.values() if run.method_key == key]
        if same and key not in there:
            out[context.method_label(key)] = min(
                same, key=lambda run: run.architecture != every[here.a].architecture
            ).id
    return out


def curves(here: Context, chosen: Choice) -> None:
    """How many features carry the answer, in every compared network."""
    settings = {"n": chosen.n} if chosen.of == "mean" else {"index": here.img}
    found = {}
    for name, run_id in compared(here).items():
        with widgets.place():
            found[name] = cache.probe(run_id, "contributions", **settings)
    if found:
        widgets.draw(
            found,
            Recipe(widgets.runs_of(found), "contributions", "contributions", settings),
            "share",
        )
        st.markdown(
            "A contribution is a feature times its weight for the true class; with the bias, they"
            " add up to the logit. Negative ones are left out of the curve."
        )


def strips(here: Context, chosen: Choice) -> None:
    """What guided dropout would leave out for the chosen image, beside the logit."""
    settings: dict[str, Any] = {"index": here.img} | ({"seed": chosen.seed} if chosen.seed else {})
    st.subheader("What would guided dropout leave out?", help=term("guided dropout"))
    for (side, run_id), column in zip(
        here.sides, st.columns(len(here.sides), gap="large"), strict=True
    ):
        with column, widgets.place():
            found = cache.probe(run_id, "contributions", **settings)
            _name(side, run_id)
            widgets.draw(
                found,
                Recipe({"": run_id}, "contributions", "dropped", settings, {"side": side}),
                f"dropped-{side}",
            )


def scatters(here: Context, chosen: Choice) -> None:
    """Which pairs logit pairing would pull together, each a point that can be chosen."""
    st.subheader("Which pairs does logit pairing pull together?", help=term("alp"))
    st.markdown(
        "Choose a point, a box or a lasso: a single point becomes the image of every view. AALP's"
        " weight p(y|x') follows from the cross-entropy on the horizontal axis; *More settings* has"
        " others, and p(y|x) does not."
    )
    found, picked = _pairs(here, chosen), list[int]()
    for (side, run_id), column in zip(
        here.sides, st.columns(len(here.sides), gap="large"), strict=True
    ):
        result = next((one for one in found.values() if one.meta["run"] == run_id), None)
        if result is not None:
            with column:
                _name(side, run_id)
                made = Recipe(
                    {"": run_id}, "pairing", "pairing", _of(chosen), {"side": side} | chosen.options
                )
                picked += widgets.draw(result, made, f"pairing-{side}", brush=True)
    widgets.thumbnails(here, list(dict.fromkeys(picked)), "pairs")
    if found:
        made = Recipe(widgets.runs_of(found), "pairing", "opposition", _of(chosen), chosen.options)
        widgets.draw(found, made, "opposition")
        st.markdown(
            "Each image has two gradients with respect to all weights: of the pairing loss, and of"
            " the mean cross-entropy of the image and its attacked twin. They oppose each other"
            " where their cosine is below 0. A weight never turns an image's gradient round: it"
            " only decides how much of all pairing lies on such images."
        )


def steps(here: Context) -> None:
    """Accuracy against attack steps up to a thousand, and under Square: behind a button."""
    st.subheader("Is the gradient masked?", help=term("gradient masking"))
    st.markdown(
        "PGD with 1 to 1000 steps of ε/4 from one start, and Square with 1000 queries, on up to 50"
        " images. An image counts as fooled from the first look at which it is misread."
    )
    found = widgets.measured(here, "attack_steps", "1000 steps", "about 20 s")
    if found:
        widgets.draw(found, Recipe(widgets.runs_of(found), "attack_steps", "attack_steps"), "steps")


def _pairs(here: Context, chosen: Choice) -> dict[str, Any]:
    return widgets.measured(
        here, "pairing", "pairing", "" if chosen.n <= 100 else "about 5 s", **_of(chosen)
    )


def _of(chosen: Choice) -> dict[str, Any]:
    return {"n": chosen.n}


def _name(side: str, run_id: str) -> None:
    st.markdown(f":{side_colour(side)}[**{side.upper()}**] {label(folder.open_model(run_id))}")
