"""The parts of the Features page: controls, a map for each network, what is chosen in it, the
numbers beside it, the film.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from dataclasses import dataclass
from typing import Any

import streamlit as st

from robustviz import embedder, figures
from robustviz.export import Recipe
from robustviz.runs import folder
from robustviz.stats import wilson
from robustviz.terms import term
from robustviz.types import eps_text
from robustviz.ui import cache, widgets
from robustviz.ui.context import Context
from robustviz.ui.shell import linked, write_address
from robustviz.views.features.result import FeatureMap, Features

MAPS = {"centres": "Class centres", "pca": "PCA", "umap": "UMAP"}
FILMS = {kind: MAPS[kind] for kind in ("centres", "umap")}
COLOURS = {"class": "Class", "fooled": "Fooled"}
ALSO = {"nothing": "Nothing", "noise": "Noise", "half": "½ ε", "double": "2 ε"}
SHARES = {"0": 0.0, "¼": 0.25, "½": 0.5, "1": 1.0, "2": 2.0}
COUNTS = [50, 100, 200, 300, 500]
GRACE = 0.5  # seconds a map is waited for before another one stands in for it
PACKED = ["0", "0.1", "0.25", "0.5", "0.9"]
ROWS = {"clean": "clean", "adversarial": "attacked", "noise": "noise"}


@dataclass(frozen=True)
class Choice:
    """What is chosen above the maps: how they are made, coloured, what joins them, the probe's
    settings, and those of the measurement behind the map, the probe `features`.
    """

    colour: str
    also: str
    settings: dict[str, Any]
    measured: dict[str, Any]

    @property
    def meanwhile(self) -> dict[str, Any]:
        """The settings of the map that stands in for UMAP's while that is computed: PCA of the same
        features.
        """
        return {
            name: value
            for name, value in self.settings.items()
            if name not in ("n_neighbors", "min_dist")
        } | {"projection": "pca"}

    def behind(self, result: FeatureMap) -> dict[str, Any]:
        """The settings of a map that is shown."""
        return (
            self.settings
            if result.meta["projection"] == self.settings["projection"]
            else self.meanwhile
        )


def controls(here: Context) -> Choice:
    """Draw the controls: three in sight, the rest behind *More settings*."""
    left, middle, right = st.columns(3, vertical_alignment="bottom")
    with left:
        kind = st.segmented_control(
            "Map",
            list(MAPS),
            required=True,
            format_func=MAPS.__getitem__,
            help=term("feature map"),
            **linked("map", "centres", MAPS),
        )
    with middle:
        colour = st.segmented_control(
            "Colour",
            list(COLOURS),
            required=True,
            format_func=COLOURS.__getitem__,
            **linked("map-colour", "class", COLOURS),
        )
    with right:
        also = st.segmented_control(
            "Put into the map",
            list(ALSO),
            required=True,
            format_func=ALSO.__getitem__,
            help=(
                "New points join the finished map and move nothing in it: random noise of the same"
                " ε, or the attack at another ε."
            ),
            **linked("map-also", "nothing", ALSO),
        )
    with st.expander("More settings", icon=":material/settings:"):
        a, b, c = st.columns(3)
        n = a.select_slider("Test images", COUNTS, **linked("map-n", 200, COUNTS))
        share = b.select_slider(
            "ε, times that of training",
            list(SHARES),
            help=term("epsilon"),
            **linked("map-eps", "1", SHARES),
        )
        steps = c.number_input(
            "Steps of PGD", 1, 100, help=term("pgd"), **linked("map-steps", 20, range(1, 101))
        )
        seed = a.number_input(
            "Seed", 0, 9999, help=term("seed"), **linked("map-seed", 0, range(10_000))
        )
        near = b.number_input(
            "UMAP: neighbours", 2, 50, help=term("umap"), **linked("map-near", 15, range(2, 51))
        )
        packed = c.select_slider(
            "UMAP: least distance", PACKED, **linked("map-dist", "0.1", PACKED)
        )
    write_address()  # here too: a fragment ends before the page does
    radii = [folder.open_model(run_id).eps for _, run_id in here.sides]
    eps = (
        None if share == "1" and len(set(radii)) == 1 else SHARES[str(share)] * radii[0]
    )  # both networks meet the same ε
    settings: dict[str, Any] = {
        "projection": str(kind),
        "n": int(n),
        "eps": eps,
        "steps": int(steps),
        "seed": int(seed),
    }
    if kind == "umap":
        settings |= {"n_neighbors": int(near), "min_dist": float(str(packed))}
    if also in ("half", "double"):
        settings["place_eps"] = {"half": 0.5, "double": 2.0}[str(also)] * (
            radii[0] if eps is None else eps
        )
    from robustviz.probes import FeatureMapSpec

    spec = FeatureMapSpec(**settings)
    return Choice(
        str(colour),
        str(also),
        settings,
        dataclasses.asdict(spec.features(spec.eps, folder.open_model(here.a))),
    )


def maps(here: Context, choice: Choice) -> None:
    """A map for each network, side by side; below them what is chosen."""
    several, umap = len(here.sides) > 1, choice.settings["projection"] == "umap"
    st.markdown(
        "Each ● is a test image, the × at the end of its line the same image attacked. "
        + ("Positions in A and in B cannot be compared, and the" if several else "The")
        + " length of a line has no unit: the numbers below are measured in feature space."
        + (" In UMAP axes and gaps between groups say nothing either." if umap else "")
    )
    focus = str(
        st.session_state.get("class", "")
    )  # chosen further below, where classes are explained
    known = focus in folder.open_model(here.a).classes
    options: dict[str, Any] = {
        "colour": choice.colour,
        "noise": choice.also == "noise",
        "focus": focus if known else "",
    }
    found: dict[str, FeatureMap] = {}
    chosen: list[int] = []
    # One after the other, so that A can be looked at while B is measured.
    for column, (name, run_id) in zip(
        st.columns(len(here.sides), gap="medium"), widgets.names(here).items(), strict=True
    ):
        with column, widgets.place():
            mine = (
                _umap(name, run_id, choice)
                if umap
                else widgets.measured({name: run_id}, "feature_map", "the map", **choice.settings)
            )
            found |= mine
            for result in mine.values():
                made = Recipe(
                    {"": run_id},
                    "feature_map",
                    "feature_map",
                    choice.behind(result),
                    {"name": name} | options,
                )
                chosen += widgets.draw(result, made, f"map-{name[0].lower()}", brush=True)
    if not found:
        return
    _chosen(here, found, list(dict.fromkeys(chosen)))
    _image(here, found, choice)


def _umap(name: str, run_id: str, choice: Choice) -> dict[str, FeatureMap]:
    """UMAP of a network where it is known or soon there; else PCA and a sentence, until the page
    draws itself again with UMAP.
    """
    if (known := cache.kept(run_id, "feature_map", **choice.settings)) is not None:
        return {name: known}
    mine: dict[str, FeatureMap] = widgets.measured(
        {name: run_id}, "feature_map", "the map", **choice.meanwhile
    )
    if not mine:
        return {}
    if (made := cache.soon(run_id, "feature_map", GRACE, **choice.settings)) is not None:
        return {name: made}
    busy = (
        "is being computed"
        if embedder.APP.ready
        else "compiles for about 15 s after the app has started"
    )
    st.info(
        f"UMAP {busy} and then takes this map's place; until then it is PCA.",
        icon=":material/hourglass_top:",
    )
    _await(run_id, choice.settings)
    return mine


@st.fragment(run_every=0.5)
def _await(run_id: str, settings: dict[str, Any]) -> None:
    if not cache.awaited(run_id, "feature_map", **settings):
        st.rerun()


def _chosen(here: Context, found: dict[str, FeatureMap], chosen: list[int]) -> None:
    """The images that are chosen in the maps: pictures, a table, a file."""
    if not chosen:
        st.markdown(
            "Click a point to see its image in every view. With the box or lasso at a map's upper"
            " right you choose several."
        )
        return
    widgets.thumbnails(here, chosen, "lasso")
    rows = table(found, chosen)
    st.dataframe(rows, hide_index=True, height=min(320, 38 * len(rows) + 40))
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    st.download_button(
        f"The {len(rows)} chosen (CSV)",
        out.getvalue(),
        "chosen.csv",
        "text/csv",
        key="file-chosen",
        on_click="ignore",
        icon=":material/download:",
    )


def table(found: dict[str, FeatureMap], chosen: list[int]) -> list[dict[str, Any]]:
    """A row for each chosen image: its number and class, and of each network the answers, whether
    it was fooled, the cosines.
    """
    first = next(iter(found.values()))
    names, at = (
        list(first.meta["classes"]),
        {int(index): row for row, index in enumerate(first.index)},
    )
    out = []
    for index in chosen:
        if (row := at.get(index)) is None:
            continue
        line: dict[str, Any] = {"image": index, "class": names[first.y[row]]}
        for name, result in found.items():
            line |= {
                f"{name}: clean": names[result.pred[row]],
                f"{name}: attacked": names[result.pred_adv[row]],
                f"{name}: fooled": bool(result.fooled[row]),
                f"{name}: own cosine": round(float(result.own[0, row]), 4),
                f"{name}: own cosine, attacked": round(float(result.own[1, row]), 4),
                f"{name}: other cosine, attacked": round(float(result.other[1, row]), 4),
            }
        out.append(line)
    return out


def _image(here: Context, found: dict[str, FeatureMap], choice: Choice) -> None:
    """The image of every view: where it lies in each map, and what becomes of it."""
    st.subheader(f"Image {here.img}")
    for column, (name, result) in zip(
        st.columns(len(found), gap="medium"), found.items(), strict=True
    ):
        with column, widgets.place():
            place = (result.index == here.img).nonzero()[0]
            if not len(place):
                st.markdown(
                    f"It is not among the first {len(result.y)} test images; choose more under"
                    " *More settings*."
                )
                continue
            row, run_id = int(place[0]), str(result.meta["run"])
            names = result.meta["classes"]
            st.markdown(
                f"**{name}** reads it as {names[result.pred[row]]}, attacked as"
                f" **{names[result.pred_adv[row]]}**; it is a {names[result.y[row]]}. Cosine to its"
                f" class's centre {result.own[0, row]:.2f} → {result.own[1, row]:.2f}, to the"
                f" nearest other {result.other[0, row]:.2f} → {result.other[1, row]:.2f}."
            )
            made = Recipe(
                {"": run_id},
                "feature_map",
                "feature_map",
                choice.behind(result),
                {"name": name, "mark": here.img},
            )
            widgets.draw(result, made, f"mark-{name[0].lower()}", words="")
            eps = float(result.meta["eps"])
            alone = cache.probe(
                run_id,
                "adversarial",
                index=here.img,
                eps=eps,
                steps=choice.settings["steps"],
                seed=choice.settings["seed"],
            )
            sheet = figures.sheet(
                [alone.x, alone.x_adv, figures.delta(alone.x, alone.x_adv, eps)], 112
            )
            gain = f"{figures.gain(eps):.3g}"
            said = f"Clean, attacked on its own at ε = {eps_text(eps)}, and the change × {gain}."
            widgets.picture(sheet, said, f"image-{name[0].lower()}", width=360)


def nearness(here: Context, choice: Choice) -> None:
    """How near images stay to their class, in feature space: a figure, a table, and who is the
    judge.
    """
    st.subheader("Measured in feature space, not in the picture")
    settings = choice.measured
    found: dict[str, Features] = widgets.measured(here, "features", "the distances", **settings)
    if not found:
        return
    with widgets.place():
        widgets.draw(
            found, Recipe(widgets.runs_of(found), "features", "features", settings), "near"
        )
        st.markdown("\n".join(_table(found)))
    st.markdown(
        "AFA and SupCon are trained to keep these distances, so they look good here by design."
        " Accuracy under attack is the judge. Noise is the control: what it does too is not the"
        " attack's doing."
    )


def _table(found: dict[str, Features]) -> list[str]:
    k = next(iter(found.values())).meta["k"]
    lines = [
        f"| images | own centre | nearest other | moved | {k}-NN among clean | right (95 %) |",
        "|:--|--:|--:|--:|--:|--:|",
    ]
    for name, result in found.items():
        for kind, said in ROWS.items():
            values, n = result.measures[kind], len(result.y)
            right = round(values["accuracy"] * n)
            low, high = wilson(right, n)
            lines.append(
                f"| **{name}** {said} | {values['own_cosine']:.2f} | {values['other_cosine']:.2f} |"
                f" {values['moved']:.2f} | {values['knn_among_clean']:.0%} | {right} of {n}"
                f" ({low:.0%}–{high:.0%}) |"
            )
    return lines


def film(here: Context) -> None:
    """The map at each epoch that was kept, and the distances over the epochs."""
    kind = st.segmented_control(
        "Map of the film",
        list(FILMS),
        required=True,
        format_func=FILMS.__getitem__,
        **linked("map-film", "centres", FILMS),
    )
    settings = {} if kind == "centres" else {"projection": str(kind)}
    found = widgets.measured(here, "feature_film", "the film", **settings)
    if not found:
        return
    epochs = sorted({int(epoch) for result in found.values() for epoch in result.epochs})
    epoch = st.select_slider(
        "Epoch", epochs, help=term("epoch"), **linked("map-epoch", epochs[-1], epochs)
    )
    write_address()
    for column, (name, result) in zip(
        st.columns(len(found), gap="medium"), found.items(), strict=True
    ):
        made = Recipe(
            {"": str(result.meta["run"])},
            "feature_film",
            "feature_film",
            settings,
            options={"epoch": int(epoch), "name": name},
        )
        with column, widgets.place():
            widgets.draw(result, made, f"film-{name[0].lower()}")
    with widgets.place():
        widgets.draw(
            found,
            Recipe(
                widgets.runs_of(found),
                "feature_film",
                "feature_gap",
                settings,
                options={"epoch": int(epoch)},
            ),
            "gap",
        )
