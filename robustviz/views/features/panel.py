"""The panels of the Features page: the first screen, how near images stay to their class, and under
*More* the maps in which points can be selected and the film of the epochs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar, cast

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from robustviz import embedder
from robustviz.runs import catalogue, folder
from robustviz.stats import wilson
from robustviz.terms import term
from robustviz.types import JSON, UserError, eps_text
from robustviz.ui import cache, networks, rights, stage, widgets
from robustviz.ui.context import Context, choose
from robustviz.ui.shell import linked, note_astray, theme, write_address
from robustviz.ui.widgets import Frame
from robustviz.views import pictures
from robustviz.views.attack.result import AdversarialSpec
from robustviz.views.features import figures, film_screen, map_figures, screen
from robustviz.views.features.result import (
    KINDS,
    FeatureFilmSpec,
    FeatureMap,
    FeatureMapSpec,
    Features,
    FeaturesSpec,
    FeatureTilesSpec,
    Film,
    Projection,
)
from robustviz.views.result import csv_of

K = TypeVar("K", bound=str)
TITLE = "Do attacked images stay with their class?"
FILMS: dict[Film, str] = {"centres": "Class centres", "umap": "UMAP"}
SHARES = {"0": 0.0, "¼": 0.25, "½": 0.5, "1": 1.0, "2": 2.0}
COUNTS = [50, 100, 200, 300, 500]
GRACE = 0.5  # seconds to wait for UMAP before PCA is shown in its place
PACKED = ["0", "0.1", "0.25", "0.5", "0.9"]
MAPS: dict[Projection, str] = {"centres": "Class centres", "pca": "PCA", "umap": "UMAP"}
COLOURS = {"class": "Class", "fooled": "Fooled"}
ALSO = {"nothing": "Nothing", "noise": "Noise", "half": "½ ε", "double": "2 ε"}
TIMES = {"half": 0.5, "double": 2.0}


@dataclass(frozen=True)
class Choice:
    """What the user chose above the maps. `colour`: a key of `COLOURS`; `also`: a key of `ALSO`,
    what is placed in the maps; `map`: the spec of the maps.
    """

    colour: str
    also: str
    map: FeatureMapSpec


def settings(here: Context) -> FeatureMapSpec:
    """Draw the first screen's settings; return the spec of the map (a UMAP) for both networks."""
    n = st.select_slider("Test images", COUNTS, **linked("map-n", 200, COUNTS))
    share = st.select_slider(
        "ε as a multiple of the training ε",
        list(SHARES),
        help=term("epsilon"),
        **linked("map-eps", "1", SHARES),
    )
    steps = st.number_input(
        "Steps of PGD", 1, 100, help=term("pgd"), **linked("map-steps", 20, range(1, 101))
    )
    seed = st.number_input(
        "Seed", 0, 9999, help=term("seed"), **linked("map-seed", 0, range(10_000))
    )
    near = st.number_input(
        "UMAP: neighbours", 2, 50, help=term("umap"), **linked("map-near", 15, range(2, 51))
    )
    packed = st.select_slider("UMAP: min_dist", PACKED, **linked("map-dist", "0.1", PACKED))
    write_address()  # here too: a fragment's rerun does not reach the page's end
    # `eps`, a radius, belongs to Attack and Attention; this page has `map-eps`, a multiple of ε
    if "eps" in st.query_params:
        note_astray("eps", None)
    radii = [catalogue.radius(folder.open_model(run_id)) for _, run_id in here.sides]
    # both networks are attacked at the same ε, a multiple of the first network's training ε
    eps = None if share == "1" and len(set(radii)) == 1 else SHARES[str(share)] * radii[0]
    return FeatureMapSpec(
        n=int(n),
        eps=eps,
        steps=int(steps),
        seed=int(seed),
        projection="umap",
        n_neighbors=int(near),
        min_dist=float(str(packed)),
    )


def allowed(here: Context, asked: FeatureMapSpec) -> FeatureMapSpec:
    """Returns the spec to measure: `asked`, unless its maps are not measured yet and this session
    may not start such a long measurement. Then a message is drawn, and the default numbers of
    images and steps replace those of `asked`.
    """
    if not _cost(asked) or any(
        all(_measured(run_id, spec) for _, run_id in here.sides)
        for spec in (asked, _meanwhile(asked))
    ):
        return asked
    usual = FeatureMapSpec()
    st.info(
        f"The map of {asked.n} images after {asked.steps} steps of PGD is not measured yet."
        f" {rights.who()} may start measurements that take {_cost(asked)}."
        f" Here are {usual.n} images after {usual.steps} steps.",
        icon=":material/info:",
    )
    return replace(asked, n=usual.n, steps=usual.steps)


def _measured(run_id: str, spec: FeatureMapSpec) -> bool:
    """Whether a run's map is in memory or on disk already. Also True if looking it up raises
    UserError, which `first` then shows in the map's place.
    """
    try:
        return cache.kept(run_id, spec) is not None
    except UserError:
        return True


def first(here: Context, asked: FeatureMapSpec, row: DeltaGenerator) -> list[screen.Side]:
    """Draw the first screen; return a `Side` for each network whose map could be measured. `row`:
    the container for the screen's *Take home* menu. A click on an image chooses it for all views
    and reruns the page.
    """
    pictured = asked.alike(FeatureTilesSpec)
    sides: list[screen.Side] = []
    for name, run_id in widgets.names(here).items():
        with widgets.place():
            for found in known_or_plane(name, run_id, asked).values():
                tiles = widgets.measured(
                    {name: run_id}, pictured, "the pictures", _cost(asked)
                ).get(name)
                sides.append(screen.Side(name[0].lower(), name, found, tiles))
    if not sides:
        return sides
    mark = networks.default_image(here.a, here.b) if here.own else here.img
    if here.own:
        st.markdown(
            f"The maps have only test images, not your own picture. Marked is test image {mark}."
        )
    drawn = screen.first(sides, mark, theme())
    seen = stage.show("features", drawn)
    if seen.clicked.isdecimal():
        choose(int(seen.clicked))
        st.rerun()
    with row:
        widgets.take_home("features", TITLE, drawn, {side.name: side.map for side in sides}, asked)
    return sides


def known_or_plane(name: str, run_id: str, asked: FeatureMapSpec) -> dict[str, FeatureMap]:
    """Returns {name: map} for a network. The map is its UMAP if that is in memory, on disk or ready
    within half a second. Else a thread goes on computing the UMAP, the map is a PCA of the same
    features, a message says so, and the page reruns when the UMAP is ready. If the PCA cannot be
    measured, the reason is drawn and the dict is empty.
    """
    if (known := cache.kept(run_id, asked)) is not None:
        return {name: known}
    mine = widgets.measured({name: run_id}, _meanwhile(asked), "the map", _cost(asked))
    if not mine:
        return {}
    if (made := cache.result_or_none(run_id, asked, GRACE)) is not None:
        return {name: made}
    st.info(
        f"The UMAP of {name} "
        + (
            "is being computed"
            if embedder.APP.ready
            else "is being compiled, once after the app has started,"
        )
        + " and will replace this map. Until then the map is a PCA.",
        icon=":material/hourglass_top:",
    )
    _await(run_id, asked)
    return mine


def _cost(asked: FeatureMapSpec) -> str:
    """The cost of a map in words, if this session may not start long measurements and the map takes
    longer than with the default numbers of images and steps; else "". With "" the map is measured
    at once (see `widgets.measured`).
    """
    usual = FeatureMapSpec()
    return (
        "more than a few seconds"
        if asked.n * asked.steps > usual.n * usual.steps and not rights.may_act()
        else ""
    )


def _meanwhile(asked: FeatureMapSpec) -> FeatureMapSpec:
    """The spec of the map that is displayed while the UMAP is computed: a PCA of the same
    features.
    """
    usual = FeatureMapSpec()
    return replace(asked, projection="pca", n_neighbors=usual.n_neighbors, min_dist=usual.min_dist)


def behind(asked: FeatureMapSpec, shown: FeatureMap) -> FeatureMapSpec:
    """The spec with which the displayed map `shown` was measured: `asked`, or the spec of the PCA
    that is displayed until the UMAP of `asked` is ready.
    """
    return asked if shown.meta["projection"] == asked.projection else _meanwhile(asked)


@st.fragment(run_every=0.5)
def _await(run_id: str, spec: FeatureMapSpec) -> None:
    if not cache.pending(run_id, spec):
        st.rerun()


def one_of(
    place: DeltaGenerator, title: str, words: Mapping[K, str], key: str, help: str | None = None
) -> K:
    """Draw a row of buttons labelled with `words`; return the chosen key, by default the first.
    `key`: the parameter in the page's address that holds the choice.
    """
    return cast(
        "K",
        place.segmented_control(
            title,
            list(words),
            required=True,
            format_func=words.__getitem__,
            help=help,
            **linked(key, next(iter(words)), words),
        ),
    )


def nearness(sides: Sequence[screen.Side], asked: FeatureMapSpec) -> None:
    """Draw how near images stay to their class in feature space, with a note that accuracy under
    attack matters more than this distance.
    """
    st.subheader("Measured in feature space, not on the map")
    with widgets.place():
        found = {side.name: side.map for side in sides}
        widgets.draw(figures.features, found, Frame("near", behind(asked, sides[0].map)))
        st.markdown(
            "AFA and SupCon are trained to keep these distances. So accuracy under attack"
            " decides, not distance. An effect that noise has too is not due to the attack."
        )


def table(here: Context, asked: FeatureMapSpec) -> None:
    """Draw a table for each network's clean, attacked and noisy images: cosines to class centres,
    how far the features moved, k-NN accuracy among the clean points, and accuracy.
    """
    if found := widgets.measured(here, asked.alike(FeaturesSpec), "the distances", _cost(asked)):
        st.markdown("\n".join(_table(found)))


def _table(measured: Mapping[str, Features]) -> Iterator[str]:
    yield (
        "| images | cosine to own centre | to nearest other centre | moved |"
        f" {next(iter(measured.values())).meta['k']}-NN accuracy among clean | correct (95%) |"
    )
    yield "|:--|--:|--:|--:|--:|--:|"
    for name, result in measured.items():
        for kind, said in KINDS.items():
            values, n = result.measures[kind], len(result.y)
            right = round(values["accuracy"] * n)
            yield (
                f"| **{name}** {said} | {values['own_cosine']:.2f} | {values['other_cosine']:.2f} |"
                f" {values['moved']:.2f} | {values['knn_among_clean']:.0%} | {right} of {n}"
                + " ({:.0%}–{:.0%}) |".format(*wilson(right, n))
            )


def explore(here: Context, asked: FeatureMapSpec) -> None:
    """Draw the maps with their controls, what is selected in them, and the table of `table`."""
    st.subheader("Maps in which several images can be chosen")
    maps(here, controls(here, asked))
    table(here, asked)


def controls(here: Context, asked: FeatureMapSpec) -> Choice:
    """Draw the maps' controls; return what was chosen, with all other settings from `asked`, the
    spec from the first screen's settings.
    """
    left, middle, right = st.columns(3, vertical_alignment="bottom")
    kind = one_of(left, "Map", MAPS, "map", term("feature map"))
    colour = one_of(middle, "Colour", COLOURS, "map-colour")
    also = one_of(
        right,
        "Also show on the map",
        ALSO,
        "map-also",
        "New points are placed in the finished map without changing it: random noise of the"
        " same ε, or the attack at another ε.",
    )
    write_address()  # here too: a fragment's rerun does not reach the page's end
    if kind != "umap":
        asked = _meanwhile(asked)
    eps = catalogue.radius(folder.open_model(here.a)) if asked.eps is None else asked.eps
    beside = TIMES[also] * eps if also in TIMES else None
    return Choice(colour, also, replace(asked, projection=kind, place_eps=beside))


def maps(here: Context, choice: Choice) -> None:
    """Draw a map for each network, side by side, and below them the images selected in the maps and
    the image that is chosen on the page.
    """
    several, umap = len(here.sides) > 1, choice.map.projection == "umap"
    st.markdown(
        "Each mark is a test image, the × at the end of its line the same image attacked. "
        + ("Positions in A and in B cannot be compared. " if several else "")
        + "The length of a line has no unit. The numbers below are measured in feature space."
        + (" In UMAP, axes and gaps between groups have no meaning either." if umap else "")
    )
    focus = str(st.session_state.get("class", ""))  # chosen in the misalignment panel below
    focus = focus if focus in folder.open_model(here.a).classes else ""
    shown: dict[str, FeatureMap] = {}
    chosen: list[int] = []
    # The maps are drawn one after the other, so that A can be seen while B is measured.
    for column, (name, run_id) in zip(
        st.columns(len(here.sides), gap="medium"), widgets.names(here).items(), strict=True
    ):
        with column, widgets.place():
            mine = (
                known_or_plane(name, run_id, choice.map)
                if umap
                else widgets.measured({name: run_id}, choice.map, "the map", _cost(choice.map))
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
    """Draw the images with indices `chosen`, which are selected in the maps: pictures, a table, and
    a download of the table as CSV. If none is selected, say how to select some.
    """
    if not chosen:
        st.markdown(
            "Click a point to see its image in every view. With the box or lasso at a map's"
            " upper right you select several."
        )
        return
    widgets.thumbnails(here, chosen, "lasso")
    rows = chosen_rows(shown, chosen)
    st.dataframe(rows, hide_index=True, height=min(320, 38 * len(rows) + 40))
    st.download_button(
        f"The {len(rows)} selected (CSV)",
        csv_of(rows),
        "chosen.csv",
        "text/csv",
        key="file-chosen",
        on_click="ignore",
        icon=":material/download:",
    )


def chosen_rows(shown: Mapping[str, FeatureMap], chosen: Sequence[int]) -> list[JSON]:
    """One row for each index in `chosen` that is in the maps `shown` (by network name): the image's
    index and class, and for each network its predictions, whether the attack fools the network on
    it, and its cosines to class centres.
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
    """The table's entries, by column, for the image in row `row` of one network's map."""
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
    """Draw, for each network, the image that is chosen on the page: where it lies in the map, how
    it is classified, and pictures of the image clean and attacked on its own. Nothing is drawn if
    the user's own picture is chosen.
    """
    if here.own:
        return
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
                f"**{name}** classifies it as {names[result.pred[row]]}, attacked as"
                f" **{names[result.pred_adv[row]]}**. It is a {names[result.y[row]]}. Cosine to"
                f" its class's centre: {result.own[0, row]:.2f} → {result.own[1, row]:.2f}. To"
                f" the nearest other: {result.other[0, row]:.2f} → {result.other[1, row]:.2f}."
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


def film(here: Context) -> None:
    """Draw the film: the map at each epoch whose weights were stored, with one slider for both
    networks, and below it the cosines and distances over the epochs.
    """
    st.subheader("How the features developed, epoch by epoch")
    spec = FeatureFilmSpec(projection=one_of(st.container(), "Map of the film", FILMS, "map-film"))
    films = widgets.measured(here, spec, "the film")
    if not films:
        return
    with widgets.place():
        drawn = film_screen.film(films, theme())
        seen = stage.show("film", drawn)
        write_address()
        widgets.take_home("film", "How the features developed", drawn, films, spec)
        epoch = int(drawn.control.values[seen.at]) if drawn.control else None
        widgets.draw(figures.feature_gap, films, Frame("gap", spec), epoch=epoch)
