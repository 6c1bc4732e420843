"""The parts of "Why is a class misaligned?": the class in question, the table of causes, and five
closer looks.
"""

from __future__ import annotations

from typing import Any

import streamlit as st

from robustviz.export import Recipe
from robustviz.runs import folder
from robustviz.terms import term
from robustviz.ui import widgets
from robustviz.ui.context import Context, choose
from robustviz.ui.shell import linked, write_address
from robustviz.views.features.result import Features
from robustviz.views.misalignment.figures import MOST, causes as counted, shown_classes
from robustviz.views.misalignment.result import Misalignment

LOOKS = {
    "auc": "Foretold?",
    "stages": "Where it starts",
    "pairs": "Pairs",
    "centres": "Centres",
    "uniformity": "Over epochs",
}
KINDS = {"adversarial": "attacked", "noise": "noise", "clean": "clean"}
SHOWN = 3  # causes in words when no class is chosen; the rest is in the table
COLUMNS = {
    "class": "class",
    "n": "n",
    "clean": "clean",
    "robust": "under attack",
    "diagnosis": "cause",
    "spread": "spread",
    "nearest": "nearest wrong",
    "distance": "its distance",
    "lands": "attacked ones land on",
    "along": "moved along",
    "across": "moved across",
    "margin": "head margin",
    "boundary": "boundary at",
    "boundary_to": "towards",
    "gap": "train–test gap",
}


def why(here: Context, settings: dict[str, Any]) -> None:
    """Everything below the map. `settings`: n, eps, steps and seed of the features that the map
    shows.
    """
    asked: dict[str, Any] = {
        name: settings[name] for name in ("n", "eps", "steps", "seed") if name in settings
    }
    names = list(folder.open_model(here.a).classes)
    focus = str(
        st.selectbox(
            "Class",
            ["", *names],
            format_func=lambda name: name or "all classes",
            help=term("misaligned"),
            **linked("class", "", ["", *names]),
        )
    )
    write_address()
    found: dict[str, Misalignment] = widgets.measured(here, "misalignment", "the causes", **asked)
    if not found:
        return
    with widgets.place():
        said = "  \n".join(f"**{name}**: {counted(result)}" for name, result in found.items())
        made = Recipe(
            widgets.runs_of(found), "misalignment", "misalignment", asked, {"focus": focus}
        )
        widgets.draw(
            found,
            made,
            "causes",
            words=(
                f"{said}  \nThe mark of a boundary: there the head changes its answer, 0.5 is"
                " halfway."
            ),
        )
    for name, result in found.items():
        with widgets.place():
            causes(here, name, result, focus)
    look = st.segmented_control(
        "Look closer",
        list(LOOKS),
        required=True,
        format_func=LOOKS.__getitem__,
        **linked("why-look", "auc", LOOKS),
    )
    write_address()
    with widgets.place():
        closer(here, str(look), found, asked, focus)


def causes(here: Context, name: str, result: Misalignment, focus: str) -> None:
    """One network: its table, worst class first, the causes in words, and pictures of the images
    that were misread.
    """
    names, rows = list(result.meta["classes"]), result.rows()
    shown = [names[c] for c in shown_classes(result, focus)] if len(names) > MOST else names
    rows = [row for row in rows if row["class"] in shown]
    st.markdown(
        f"**{name}**, {result.meta['printed']}, n = {len(result.y)}, seed {result.meta['seed']},"
        " worst class first. Lengths are in mean centre distances. A row sets the class and an"
        " image of it."
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
    told = [names.index(focus)] if focus in names else result.order[:SHOWN]
    st.markdown(
        "\n".join(f"- {names[c]}: **{result.kind[c]}**: {result.sentence[c]}" for c in told)
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
        wrong = misread(result, names.index(focus))
        if wrong:
            st.markdown(f"Misread images of {focus}, those far from their class first:")
            widgets.thumbnails(here, wrong, f"misread-{name[0].lower()}")
        else:
            st.markdown(f"No image of {focus} is misread by {name}.")


def misread(result: Misalignment, c: int) -> list[int]:
    """The numbers of a class's images that are misread, attacked or not: outliers first, then by
    distance from the centre.
    """
    wrong = ((result.y == c) & ((result.pred_adv != c) | (result.pred != c))).nonzero()[0]
    return [
        int(result.index[i])
        for i in sorted(wrong, key=lambda i: (not result.outlier[i], -result.own[i]))
    ]


def _cells(row: dict[str, Any]) -> dict[str, Any]:
    share = {
        name: f"{row[name]:.0%} [{row[f'{name}_low']:.0%}, {row[f'{name}_high']:.0%}]"
        for name in ("clean", "robust")
        if row[name] is not None
    }
    numbers = {name: f"{value:.2f}" for name, value in row.items() if isinstance(value, float)}
    gap = (
        {}
        if row["gap"] is None
        else {"gap": f"{100 * row['gap']:+.0f} points, {row['train_n']} train"}
    )
    shown = row | numbers | share | gap
    return {title: shown[name] for name, title in COLUMNS.items()}


def _row(key: str, result: Misalignment, order: list[str]) -> None:
    """A row was chosen: its class, and of it the first image that is misread, else the first."""
    rows = st.session_state[key].get("selection", {}).get("rows", [])
    if not rows or not rows[0] < len(order):
        return
    c = list(result.meta["classes"]).index(order[rows[0]])
    st.session_state["class"] = order[rows[0]]
    own = [int(i) for i in result.index[result.y == c]]
    if images := misread(result, c) or own:
        choose(images[0])


def closer(
    here: Context, look: str, found: dict[str, Misalignment], asked: dict[str, Any], focus: str
) -> None:
    """One closer look, of A and B."""
    ids = widgets.runs_of(found)
    if look == "auc":
        widgets.draw(found, Recipe(ids, "misalignment", "misalignment_auc", asked), "auc")
        st.markdown(
            "Misaligned: the untouched features are nearer, in cosine, to another class's centre."
            " AUC 0.5 is chance. Interval: Hanley and McNeil."
        )
    elif look == "stages":
        settings = asked | {"n": min(100, int(asked.get("n", 100)))}
        if stages := widgets.measured(here, "stages", "the stages", **settings):
            widgets.draw(
                stages, Recipe(widgets.runs_of(stages), "stages", "stages", settings), "stages"
            )
    elif look == "pairs":
        images = st.segmented_control(
            "Images",
            list(KINDS),
            required=True,
            format_func=KINDS.__getitem__,
            **linked("pairs", "clean", KINDS),
        )
        write_address()
        settings = asked | {"images": str(images)}
        pairs = widgets.measured(here, "pairs", "the pairs", **settings)
        for column, (name, result) in zip(
            st.columns(max(len(pairs), 1)), pairs.items(), strict=False
        ):
            made = Recipe(
                {"": str(result.meta["run"])}, "pairs", "pairs", settings, {"side": name[0].lower()}
            )
            with column, widgets.place():
                st.markdown(f"**{name}**")
                widgets.draw(result, made, f"pairs-{name[0].lower()}")
    elif look == "centres":
        _centres(here, found, asked, focus)
    else:
        spread = widgets.measured(
            here, "uniformity", "alignment and uniformity", n=int(asked.get("n", 500))
        )
        if spread:
            widgets.draw(
                spread,
                Recipe(
                    widgets.runs_of(spread),
                    "uniformity",
                    "uniformity",
                    {"n": int(asked.get("n", 500))},
                ),
                "uniformity",
            )


def _centres(
    here: Context, found: dict[str, Misalignment], asked: dict[str, Any], focus: str
) -> None:
    images = st.segmented_control(
        "Images",
        list(KINDS),
        required=True,
        format_func=KINDS.__getitem__,
        **linked("centres", "adversarial", KINDS),
    )
    write_address()
    seen: dict[str, Features] = widgets.measured(here, "features", "the features", **asked)
    for column, (name, result) in zip(st.columns(max(len(seen), 1)), seen.items(), strict=False):
        names = list(result.meta["classes"])
        few = (
            [names[c] for c in sorted(shown_classes(found[name], focus))]
            if len(names) > MOST and name in found
            else []
        )
        options = {"images": str(images)} | ({"classes": few} if few else {})
        with column, widgets.place():
            st.markdown(f"**{name}**")
            made = Recipe(
                {"": str(result.meta["run"])}, "features", "centre_cosines", asked, options
            )
            widgets.draw(result, made, f"centres-{name[0].lower()}")
