"""Features, under *More*: a map for each network as a plane or by UMAP, in which points are chosen
with a box or a lasso, what is chosen, and where the image of every view lies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import streamlit as st

from robustviz.runs import folder
from robustviz.terms import term
from robustviz.types import JSON, eps_text
from robustviz.ui import cache, widgets
from robustviz.ui.context import Context
from robustviz.ui.shell import write_address
from robustviz.ui.widgets import Frame
from robustviz.views import pictures
from robustviz.views.attack.result import AdversarialSpec
from robustviz.views.features import map_figures
from robustviz.views.features.panel import behind, known_or_plane, one_of, table
from robustviz.views.features.result import FeatureMap, FeatureMapSpec, Projection
from robustviz.views.result import csv_of

MAPS: dict[Projection, str] = {"centres": "Class centres", "pca": "PCA", "umap": "UMAP"}
COLOURS = {"class": "Class", "fooled": "Fooled"}
ALSO = {"nothing": "Nothing", "noise": "Noise", "half": "½ ε", "double": "2 ε"}
TIMES = {"half": 0.5, "double": 2.0}


@dataclass(frozen=True)
class Choice:
    """What is chosen above the maps: how they are coloured, what joins them, and which map."""

    colour: str
    also: str
    map: FeatureMapSpec


def everything(here: Context, asked: FeatureMapSpec) -> None:
    """The maps with their controls, what is chosen in them, and the table of distances."""
    st.subheader("Maps in which several images can be chosen")
    maps(here, controls(here, asked))
    table(here, asked)


def controls(here: Context, asked: FeatureMapSpec) -> Choice:
    """Draw the maps' controls; `asked` is what the first screen's settings ask."""
    left, middle, right = st.columns(3, vertical_alignment="bottom")
    kind = one_of(left, "Map", MAPS, "map", term("feature map"))
    colour = one_of(middle, "Colour", COLOURS, "map-colour")
    also = one_of(
        right,
        "Put into the map",
        ALSO,
        "map-also",
        "New points join the finished map and move nothing in it: random noise of the same ε, or"
        " the attack at another ε.",
    )
    write_address()  # here too: a fragment ends before the page does
    if kind != "umap":
        usual = FeatureMapSpec()
        asked = replace(asked, n_neighbors=usual.n_neighbors, min_dist=usual.min_dist)
    eps = folder.open_model(here.a).eps if asked.eps is None else asked.eps
    beside = TIMES[also] * eps if also in TIMES else None
    return Choice(colour, also, replace(asked, projection=kind, place_eps=beside))


def maps(here: Context, choice: Choice) -> None:
    """A map for each network, side by side; below them what is chosen."""
    several, umap = len(here.sides) > 1, choice.map.projection == "umap"
    st.markdown(
        "Each mark is a test image, the × at the end of its line the same image attacked. "
        + ("Positions in A and in B cannot be compared. " if several else "")
        + "The length of a line has no unit. The numbers below are measured in feature space."
        + (" In UMAP axes and gaps between groups say nothing either." if umap else "")
    )
    focus = str(st.session_state.get("class", ""))  # chosen further below, with its cause
    focus = focus if focus in folder.open_model(here.a).classes else ""
    shown: dict[str, FeatureMap] = {}
    chosen: list[int] = []
    # One after the other, so that A can be looked at while B is measured.
    for column, (name, run_id) in zip(
        st.columns(len(here.sides), gap="medium"), widgets.names(here).items(), strict=True
    ):
        with column, widgets.place():
            mine = (
                known_or_plane(name, run_id, choice.map)
                if umap
                else widgets.measured({name: run_id}, choice.map, "the map")
            )
            shown |= mine
            for result in mine.values():
                chosen += widgets.draw(
                    map_figures.feature_map,
                    result,
                    Frame(f"map-{name[0].lower()}", behind(choice.map, result), brush=True),
                    name=name,
                    colour=choice.colour,
                    noise=choice.also == "noise",
                    focus=focus,
                )
    if shown:
        _chosen(here, shown, list(dict.fromkeys(chosen)))
        _image(here, shown, choice)


def _chosen(here: Context, shown: Mapping[str, FeatureMap], chosen: Sequence[int]) -> None:
    """The images that are chosen in the maps: pictures, a table, a file."""
    if not chosen:
        st.markdown(
            "Click a point to see its image in every view. With the box or lasso at a map's upper"
            " right you choose several."
        )
        return
    widgets.thumbnails(here, chosen, "lasso")
    rows = chosen_rows(shown, chosen)
    st.dataframe(rows, hide_index=True, height=min(320, 38 * len(rows) + 40))
    st.download_button(
        f"The {len(rows)} chosen (CSV)",
        csv_of(rows),
        "chosen.csv",
        "text/csv",
        key="file-chosen",
        on_click="ignore",
        icon=":material/download:",
    )


def chosen_rows(shown: Mapping[str, FeatureMap], chosen: Sequence[int]) -> list[JSON]:
    """A row for each chosen image: its number and class, and of each network the answers, whether
    it was fooled, the cosines.
    """
    first = next(iter(shown.values()))
    at = {int(index): row for row, index in enumerate(first.index)}
    return [
        {"image": index, "class": first.meta["classes"][first.y[at[index]]]}
        | {
            f"{name}: {what}": value
            for name, result in shown.items()
            for what, value in _cells(result, at[index]).items()
        }
        for index in chosen
        if index in at
    ]


def _cells(result: FeatureMap, row: int) -> JSON:
    """What one network makes of the image in that row."""
    names = result.meta["classes"]
    return {
        "clean": names[result.pred[row]],
        "attacked": names[result.pred_adv[row]],
        "fooled": bool(result.fooled[row]),
        "own cosine": round(float(result.own[0, row]), 4),
        "own cosine, attacked": round(float(result.own[1, row]), 4),
        "other cosine, attacked": round(float(result.other[1, row]), 4),
    }


def _image(here: Context, shown: Mapping[str, FeatureMap], choice: Choice) -> None:
    """The image of every view: where it lies in each map, and what becomes of it."""
    st.subheader(f"Image {here.img}")
    for column, (name, result) in zip(
        st.columns(len(shown), gap="medium"), shown.items(), strict=True
    ):
        with column, widgets.place():
            if here.img not in result.index:
                st.markdown(
                    f"It is not among the first {len(result.y)} test images; choose more under"
                    " *Settings*."
                )
                continue
            row, side = int((result.index == here.img).argmax()), name[0].lower()
            names = result.meta["classes"]
            st.markdown(
                f"**{name}** reads it as {names[result.pred[row]]}, attacked as"
                f" **{names[result.pred_adv[row]]}**. It is a {names[result.y[row]]}. Cosine to its"
                f" class's centre: {result.own[0, row]:.2f} → {result.own[1, row]:.2f}. To the"
                f" nearest other: {result.other[0, row]:.2f} → {result.other[1, row]:.2f}."
            )
            widgets.draw(
                map_figures.feature_map,
                result,
                Frame(f"mark-{side}", behind(choice.map, result), words=""),
                name=name,
                mark=here.img,
            )
            eps, asked = float(result.meta["eps"]), choice.map
            alone = cache.answer(
                str(result.meta["run"]),
                AdversarialSpec(index=here.img, eps=eps, steps=asked.steps, seed=asked.seed),
            )
            widgets.picture(
                pictures.sheet(
                    [alone.x, alone.x_adv, pictures.delta(alone.x, alone.x_adv, eps)], 112
                ),
                f"Clean, attacked on its own at ε = {eps_text(eps)}, and the change ×"
                f" {pictures.gain(eps):.3g}.",
                f"image-{side}",
                width=360,
            )
