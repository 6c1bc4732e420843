"""Streamlit parts of "Why is a class misaligned?" on the Features page: one class with its cause
and its images; under *More* the causes of all classes and five closer looks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import streamlit as st

from robustviz.runs import folder
from robustviz.terms import term
from robustviz.types import JSON
from robustviz.ui import widgets
from robustviz.ui.context import Context, choose
from robustviz.ui.shell import linked, write_address
from robustviz.ui.widgets import Frame
from robustviz.views import pictures
from robustviz.views.features.panel import one_of
from robustviz.views.features.result import KINDS, AttackedSpec, FeaturesSpec, FeatureTiles, Images
from robustviz.views.features.screen import Side
from robustviz.views.misalignment import figures
from robustviz.views.misalignment.figures import MOST, causes as counted, shown_classes
from robustviz.views.misalignment.result import (
    Misalignment,
    MisalignmentSpec,
    PairsSpec,
    StagesSpec,
    UniformitySpec,
)

LOOKS = {
    "auc": "Predicts who is fooled",
    "stages": "By stage",
    "pairs": "Feature distances",
    "centres": "Class centres",
    "uniformity": "Over epochs",
}
STAGED = 100  # at most this many images, the first ones, are measured at each stage
CENTRES: dict[Images, str] = {"adversarial": "attacked", "noise": "noise", "clean": "clean"}
SHOWN = 3  # so many classes are explained in words if none is chosen; the table has all
COLUMNS = {
    "class": "class",
    "n": "n",
    "clean": "clean",
    "robust": "under attack",
    "diagnosis": "cause",
    "spread": "spread",
    "nearest": "nearest wrong",
    "distance": "its distance",
    "lands": "attacked images classified as",
    "along": "moved along the line",
    "across": "moved off the line",
    "margin": "head margin",
    "boundary": "boundary position",
    "boundary_to": "towards",
    "gap": "train–test gap",
}


def why(here: Context, shown: AttackedSpec[Any], sides: Sequence[Side]) -> None:
    """Draw the part that is always visible: a picker for a class and, for each network, the class's
    cause in a sentence and up to three of its images. If no class is chosen, it is the one that is
    least robust on this network.

    `shown`: the spec of the feature map above; the causes are measured on the same images under the
    same attack. `sides`: the networks, with the pictures of their images.
    """
    st.subheader("Why is a class misaligned?")
    names = list(folder.open_model(here.a).classes)
    focus = str(
        st.selectbox(
            "Class",
            ["", *names],
            format_func=lambda name: name or "the least robust one",
            help=term("misaligned"),
            width=360,
            **linked("class", "", ["", *names]),
        )
    )
    write_address()
    measured = widgets.measured(here, shown.alike(MisalignmentSpec), "the causes")
    pictured = {side.name: side.tiles for side in sides}
    for column, (name, result) in zip(
        st.columns(max(len(measured), 1), gap="medium"), measured.items(), strict=False
    ):
        with column, widgets.place():
            c = names.index(focus) if focus else result.order[0]
            kind, _, said = result.cause(c).partition(": ")
            st.markdown(f"**{name}**, {names[c]}: **{kind}**: {said}")
            _telling(name, result, c, pictured.get(name))


def _telling(name: str, result: Misalignment, c: int, tiles: FeatureTiles | None) -> None:
    """Draw up to three images that show the cause of class `c` best, clean and attacked, each with
    a button that chooses the image for all views. Draws nothing if `tiles`, the images' pictures,
    is None or of other images.
    """
    rows = result.telling(c)
    if tiles is None or not rows or tuple(tiles.index) != tuple(result.index):
        return
    images, names = tiles.images(), list(result.meta["classes"])
    columns = st.container(width=620).columns(len(rows))
    for column, row in zip(columns, rows, strict=True):
        with column:
            index = int(result.index[row])
            clean, attacked = (names[answer[row]] for answer in (result.pred, result.pred_adv))
            widgets.fitted(
                pictures.sheet([images[row], images[len(result.y) + row]], 96),
                f"Image {index}, a {names[c]}, untouched and attacked",
            )
            st.button(
                f"{index}: {clean} → {attacked}",
                key=f"telling-{name[0].lower()}-{index}",
                help=f"Show image {index} in every view",
                on_click=choose,
                args=(index,),
                type="tertiary",
            )


def everything(here: Context, shown: AttackedSpec[Any]) -> None:
    """Draw the part under *More*: how far the attack moves each class, a table of causes for each
    network, and the closer look that the user chooses.
    """
    st.subheader("The causes of all classes")
    names = list(folder.open_model(here.a).classes)
    focus = str(st.session_state.get("class", ""))
    focus = focus if focus in names else ""
    spec = shown.alike(MisalignmentSpec)
    measured = widgets.measured(here, spec, "the causes")
    if not measured:
        return
    with widgets.place():
        words = [
            *(f"**{name}**: {counted(result)}" for name, result in measured.items()),
            "The boundary mark shows where the head's prediction changes; 0.5 is halfway"
            " between the centres.",
        ]
        widgets.draw(
            figures.misalignment,
            measured,
            Frame("causes", spec, words="  \n".join(words)),
            focus=focus,
        )
    for name, result in measured.items():
        with widgets.place():
            causes(here, name, result, focus)
    look = one_of(st.container(), "Look closer", LOOKS, "why-look")
    write_address()
    with widgets.place():
        closer(here, look, measured, spec, focus)


def causes(here: Context, name: str, result: Misalignment, focus: str) -> None:
    """Draw one network's table of causes, worst class first, the explanations of the three worst
    classes in words, and a download of the whole table.

    If `focus` names a class, only this class is explained, and its images that are misclassified,
    untouched or attacked, are drawn. If there are more than ten classes, the table shows only
    `shown_classes`. A click on a row chooses its class, and one of its images for the page.
    `name`: the network's printed name.
    """
    names, rows = list(result.meta["classes"]), result.rows()
    shown = [names[c] for c in shown_classes(result, focus)] if len(names) > MOST else names
    rows = [row for row in rows if row["class"] in shown]
    st.markdown(
        f"**{name}**, {result.meta['printed']}, n = {len(result.y)}, worst class first. Lengths"
        " are in units of the mean distance between class centres. Click a row to choose its"
        " class and one of its images."
    )
    key = f"causes-{name[0].lower()}"
    st.dataframe(
        [_cells(row) for row in rows],
        hide_index=True,
        height=min(420, 35 * len(rows) + 38),
        key=key,
        selection_mode="single-row",
        on_select=lambda: _row(key, result, [str(row["class"]) for row in rows]),
        alt=f"Causes of misalignment, {name}",
    )
    st.markdown(
        "\n".join(
            f"- {names[c]}: **{result.kind[c]}**: {result.sentence[c]}"
            for c in ([names.index(focus)] if focus in names else result.order[:SHOWN])
        )
    )
    st.download_button(
        "Table (CSV)",
        result.to_csv,
        f"{key}.csv",
        "text/csv",
        key=f"file-{key}",
        on_click="ignore",
        type="tertiary",
        icon=":material/download:",
    )
    if focus in names:
        if wrong := misread(result, names.index(focus)):
            st.markdown(f"Misclassified images of {focus}, those far from their class first:")
            widgets.thumbnails(here, wrong, f"misread-{name[0].lower()}")
        else:
            st.markdown(f"No image of {focus} is misclassified by {name}.")


def misread(result: Misalignment, c: int) -> list[int]:
    """Returns the indices of the images of class `c` that are misclassified untouched or attacked:
    outliers first, then by distance from the class's centre, the farthest first.
    """
    return [
        int(result.index[i])
        for i in sorted(
            ((result.y == c) & ((result.pred_adv != c) | (result.pred != c))).nonzero()[0],
            key=lambda i: (not result.outlier[i], -result.own[i]),
        )
    ]


def _cells(row: JSON) -> JSON:
    share = {
        name: f"{row[name]:.0%} [{row[f'{name}_low']:.0%}, {row[f'{name}_high']:.0%}]"
        for name in ("clean", "robust")
        if row[name] is not None
    }
    shown = (
        row
        | {name: f"{value:.2f}" for name, value in row.items() if isinstance(value, float)}
        | share
        | (
            {}
            if row["gap"] is None
            else {"gap": f"{100 * row['gap']:+.0f} points, {row['train_n']} training images"}
        )
    )
    return {title: shown[name] for name, title in COLUMNS.items()}


def _row(key: str, result: Misalignment, order: list[str]) -> None:
    """Callback for when a row of the table is selected: choose the row's class, and the first image
    of `misread` or, if there is none, the class's first image. `key`: of the table's widget;
    `order`: the class names of the table's rows.
    """
    rows = st.session_state[key].get("selection", {}).get("rows", [])
    if not rows or not rows[0] < len(order):
        return
    c = list(result.meta["classes"]).index(order[rows[0]])
    st.session_state["class"] = order[rows[0]]
    if images := misread(result, c) or [int(i) for i in result.index[result.y == c]]:
        choose(images[0])


def closer(
    here: Context,
    look: str,
    measured: Mapping[str, Misalignment],
    spec: MisalignmentSpec,
    focus: str,
) -> None:
    """Draw the closer look `look`, a key of `LOOKS`, for A and B. `measured`, `spec`: the causes
    and the spec with which they were measured; `focus`: the name of the chosen class, or "".
    """
    if look == "auc":
        widgets.draw(figures.misalignment_auc, dict(measured), Frame("auc", spec))
        st.markdown(
            "Misaligned: the untouched features are nearer, in cosine, to another class's centre."
            " AUC 0.5 is chance. Interval: Hanley and McNeil."
        )
    elif look == "stages":
        staged = replace(spec.alike(StagesSpec), n=min(STAGED, spec.n))
        if stages := widgets.measured(here, staged, "the stages"):
            widgets.draw(figures.stages, stages, Frame("stages", staged))
    elif look == "pairs":
        _pairs(here, spec)
    elif look == "centres":
        _centres(here, measured, spec, focus)
    else:
        asked = UniformitySpec(n=spec.n)
        if spread := widgets.measured(here, asked, "alignment and uniformity"):
            widgets.draw(figures.uniformity, spread, Frame("uniformity", asked))


def _pairs(here: Context, spec: MisalignmentSpec) -> None:
    asked = replace(spec.alike(PairsSpec), images=one_of(st.container(), "Images", KINDS, "pairs"))
    write_address()
    pairs = widgets.measured(here, asked, "the pairs")
    for column, (name, result) in zip(st.columns(max(len(pairs), 1)), pairs.items(), strict=False):
        side = name[0].lower()
        with column, widgets.place():
            st.markdown(f"**{name}**")
            widgets.draw(figures.pairs, result, Frame(f"pairs-{side}", asked), side=side)


def _centres(
    here: Context, measured: Mapping[str, Misalignment], spec: MisalignmentSpec, focus: str
) -> None:
    images = one_of(st.container(), "Images", CENTRES, "centres")
    write_address()
    asked = spec.alike(FeaturesSpec)
    seen = widgets.measured(here, asked, "the features")
    for column, (name, result) in zip(st.columns(max(len(seen), 1)), seen.items(), strict=False):
        names = list(result.meta["classes"])
        few = (
            [names[c] for c in sorted(shown_classes(measured[name], focus))]
            if len(names) > MOST and name in measured
            else []
        )
        with column, widgets.place():
            st.markdown(f"**{name}**")
            widgets.draw(
                figures.centre_cosines,
                result,
                Frame(f"centres-{name[0].lower()}", asked),
                images=images,
                classes=few,
            )
