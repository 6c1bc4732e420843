"""What panels share: measuring with probes, drawing a figure with its sentence, downloads, and
choosing an image in a figure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import plotly.graph_objects as go
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from robustviz import progress
from robustviz.export import Recipe, notebook
from robustviz.imports import load
from robustviz.runs import folder
from robustviz.runs.naming import labels
from robustviz.types import UserError
from robustviz.ui import cache, fetching, rights
from robustviz.ui.context import Context, choose
from robustviz.ui.line import LONG, QUICK
from robustviz.ui.networks import thumbnail
from robustviz.ui.shell import spoken, theme
from robustviz.views.files import csv, html
from robustviz.views.pictures import SCALES, strip
from robustviz.views.printing import able, drawing, vectors
from robustviz.views.result import ProbeSpec, Result, csv_of
from robustviz.views.screen import Screen, page
from robustviz.views.theme import BRUSH, CONFIG, finish

A = TypeVar("A")
R = TypeVar("R", bound=Result)
F = TypeVar("F", bound=Result | Mapping[str, Result])
P = ParamSpec("P")

WIDTHS = ("84mm", "174mm")  # width of one and of two columns in a paper
SHOWN = 12  # the most thumbnails shown; the CSV has all images


def names(here: Context) -> dict[str, str]:
    """The run ids of A and B by the labels that figures print for them, such as "A PGD-AT"; if both
    have the same method, the labels also have what distinguishes them, as "A PGD-AT, seed 0".
    """
    called = labels([folder.open_model(run_id) for _, run_id in here.sides])
    return {
        f"{side.upper()} {name}": run_id
        for (side, run_id), name in zip(here.sides, called, strict=True)
    }


@contextmanager
def place() -> Iterator[None]:
    """A context manager: a UserError inside it is shown as a sentence at this place, and the rest
    of the page is drawn as usual.
    """
    try:
        yield
    except UserError as error:
        st.info(spoken(error), icon=":material/info:")


def measured(
    networks: Context | Mapping[str, str], spec: ProbeSpec[R], what: str, cost: str = ""
) -> dict[str, R]:
    """Measure networks A and B (of a `Context`) or other runs (a dictionary from labels to run ids)
    with the probe of `spec`. Returns the results by label; those of A and B are from `names`.
    Results are read from memory or disk. Missing ones are measured now; if `cost` is given (the
    time per network, as "about 10 s"), only after a click on a button. `what` says what is
    measured, for the button and the spinner. A network that cannot be measured gets a sentence and
    is left out, and so is one that waits for the button.
    """
    named = names(networks) if isinstance(networks, Context) else networks
    unable: list[str] = []

    def asked(ask: Callable[[str], A], several: Sequence[str]) -> dict[str, A]:
        answers = {}
        for name in several:
            try:
                answers[name] = ask(named[name])
            except UserError as error:
                unable.append(spoken(error))
        return answers

    known = asked(lambda run_id: cache.kept(run_id, spec), list(named))
    results = {name: result for name, result in known.items() if result is not None}
    missing = [name for name, result in known.items() if result is None]
    spot = st.empty()
    if missing and (not cost or _asks(spot, f"{what} of {' and '.join(missing)}", cost, spec)):
        spot.empty()
        line = LONG if cost else QUICK
        with (
            line.turn(lambda place: spot.info(f"You are {_nth(place)}.")),
            spot.container(),
            st.spinner(f"Measuring {what} …"),
            _counted(),
        ):
            results |= asked(lambda run_id: cache.answer(run_id, spec), missing)
        spot.empty()
    for reason in dict.fromkeys(unable):  # without duplicates: A and B may give the same reason
        st.info(reason, icon=":material/info:")
    return {name: results[name] for name in named if name in results}


def _asks(spot: DeltaGenerator, what: str, cost: str, spec: ProbeSpec[Any]) -> bool:
    """Draw the button that starts a long measurement, and return whether it was pressed. A user who
    may not act gets a sentence instead, and False is returned.
    """
    if not rights.may_act():
        spot.info(
            f"Not measured yet: {what}. {rights.who()} may start measurements that take {cost}."
        )
        return False
    each = " each" if " and " in what else ""
    return spot.button(f"Measure {what} ({cost}{each})", key=f"measure-{spec.key}")


def _nth(place: int) -> str:
    """A place in the waiting line as text: `next` for 1, `2nd in the queue` for 2."""
    ending = "th" if 10 < place % 100 < 14 else {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th")
    return "next" if place == 1 else f"{place}{ending} in the queue"


@contextmanager
def _counted() -> Iterator[None]:
    """A context manager: inside it a progress bar shows how many images of a measurement are
    finished, if their total is known, and how much of missing test images is downloaded.
    """
    spot = st.empty()

    def tell(done: int, total: int) -> None:
        if total:
            spot.progress(min(1.0, done / total), text=f"{min(done, total)} of {total} images")

    with progress.watched(tell), fetching.bar(spot.progress):
        yield


@dataclass(frozen=True)
class Frame:
    """What belongs to a figure on a page. `key`: names its widget and its files; `spec`: the spec
    that was measured (None: no run was measured); `words`: a sentence to show in place of the
    figure's own (None: the figure's own); `image`: a PNG to download with it. With `brush` its
    points can be chosen by a click, a box or a lasso; each point's `customdata` must start with the
    index of its test image.
    """

    key: str
    spec: ProbeSpec[Any] | None
    words: str | None = None
    image: bytes | None = None
    brush: bool = False


def drawn(
    figure: Callable[Concatenate[F, P], go.Figure], found: F, /, *given: P.args, **options: P.kwargs
) -> go.Figure:
    """The figure that `figure` makes of the results `found`, in the page's theme. `given` and
    `options` are passed to `figure`, and so is the theme, as `template`. The figure is cached for
    these results, arguments and theme.
    """
    template = theme()
    themed = cast("Callable[..., go.Figure]", figure)  # all figures take `template`
    return cache.made(
        lambda: themed(found, *given, template=template, **options),
        (found,) if isinstance(found, Result) else tuple(found.values()),
        figure.__name__,
        "" if isinstance(found, Result) else tuple(found),
        template,
        repr((given, sorted(options.items()))),
    )


def draw(
    figure: Callable[Concatenate[F, P], go.Figure],
    found: F,
    frame: Frame,
    /,
    *given: P.args,
    **options: P.kwargs,
) -> list[int]:
    """Draw a figure of the results `found` with its sentence and downloads; arguments as in
    `drawn`. With a brush, choosing a single point selects its image in all views. Returns the
    indices of all test images chosen with the brush; an empty list without one.
    """
    made, key = drawn(figure, found, *given, **options), frame.key
    meta = made.layout.meta
    st.plotly_chart(
        made,
        key=key,
        theme=None,
        config=BRUSH if frame.brush else CONFIG,
        alt=meta["alt"],
        on_select=partial(_brushed, key) if frame.brush else "ignore",
    )
    if sentence := meta["sentence"] if frame.words is None else frame.words:
        st.markdown(sentence)
    results = {"": found} if isinstance(found, Result) else found
    with st.container(horizontal=True, key=f"row-{key}"):
        if meta["sure"]:
            with st.popover("How sure?", type="tertiary", key=f"sure-{key}"):
                st.markdown(meta["sure"])
        downloads(
            made,
            results,
            frame,
            None
            if frame.spec is None
            else Recipe(_runs(results), frame.spec, figure.__name__, options),
        )
    return chosen(key) if frame.brush else []


def _runs(results: Mapping[str, Result]) -> dict[str, str]:
    return {name: str(result.meta["run"]) for name, result in results.items()}


def take_home(
    key: str,
    title: str,
    screen: Screen,
    results: Mapping[str, Result],
    spec: ProbeSpec[Any] | None = None,
    chart: tuple[Mapping[str, Result], Recipe] | None = None,
    rows: Callable[[], Sequence[Mapping[str, Any]]] | None = None,
    lines: str = "",
) -> None:
    """Draw the *Take home* menu of a first screen: the screen with its control as one HTML file,
    its charts and images, all measured data, its caption, and, with a `spec`, the lines of Python
    that measure `results` again. `chart`: other results, which the screen's chart shows, and the
    recipe of a figure of them; its numbers, caption and lines are offered, too. `rows` returns the
    numbers of a screen without results, offered as CSV; `lines`: Python for a screen without a
    `spec`. Users who may act also get notebooks that repeat the runs of `results`.
    """
    with st.popover(
        "Take home",
        icon=":material/download:",
        key=f"home-{key}",
        type="tertiary",
        on_change="rerun",
    ) as menu:
        if not menu.open:
            return
        scheme = "dark" if st.context.theme.type == "dark" else "light"
        _file(
            "This screen (HTML, works offline)",
            lambda: page(screen, title, scheme),
            f"{key}.html",
            "text/html",
        )
        at = _position(screen)
        if vector := drawing(screen, at):
            _file("Charts (SVG)", lambda: vector, f"{key}.svg", "image/svg+xml")
        captioned = [_titled(title, screen, at, results)]
        recipes = [] if spec is None else [Recipe(_runs(results), spec)]
        if chart is not None:
            found, recipe = chart
            figure = getattr(load("robustviz.figures"), recipe.figure)
            captioned.append(made := drawn(figure, found, **recipe.options))
            recipes.append(recipe)
            _file("Numbers drawn (CSV)", lambda: csv(made), f"{key}.csv", "text/csv")
        if rows is not None:
            _file("Numbers (CSV)", lambda: csv_of(rows()), f"{key}.csv", "text/csv")
        _strips(key, results, at)
        _measured_files(key, results)
        # without results only the screen's own sentences say how it was measured
        told = () if results else (screen.answer[at % len(screen.answer)], *screen.sure)
        _caption(*captioned, more=" ".join(told))
        if recipes or lines:
            st.markdown("In a notebook:")
            for code in (*(recipe.code() for recipe in recipes), *([lines] if lines else [])):
                st.code(code, language="python", wrap_lines=True)
        if recipes:
            _notebooks(key, results)


def _notebooks(key: str, results: Mapping[str, Result]) -> None:
    """Draw downloads of the notebooks that repeat the runs, only for users who may act, because
    they contain paths of folders on the server.
    """
    if not rights.may_act():
        return
    for name, run_id in _runs(results).items():

        def made(run_id: str = run_id) -> bytes:
            return notebook(folder.open_model(run_id))

        _file(
            f"Notebook that repeats {name or run_id}",
            made,
            f"{key}-{run_id}.ipynb",
            "application/x-ipynb+json",
        )


def _position(screen: Screen) -> int:
    """The present position of a screen's control, as an index into its values; 0 if it has none."""
    control = screen.control
    if control is None:
        return 0
    names = [str(value) for value in control.values]
    stands = str(st.session_state.get(control.key))
    return names.index(stands) if stands in names else control.start


def _titled(title: str, screen: Screen, at: int, results: Mapping[str, Result]) -> go.Figure:
    """An empty figure with the title and metadata of a first screen, to make its caption from."""
    control = screen.control
    where = f"{control.label}: {control.values[at]}{control.unit}" if control else ""
    words = {"text": title, "subtitle": {"text": where}}
    return finish(go.Figure(layout={"title": words}), title, results)


def _caption(*figures: go.Figure, more: str = "") -> None:
    caption = load("robustviz.views.paper").caption
    if said := " ".join(filter(None, [*map(caption, figures), more])):
        st.markdown("Its caption:")
        st.code(said, language=None, wrap_lines=True)


def _strips(key: str, results: Mapping[str, Result], at: int) -> None:
    """Draw downloads of one picture in two sizes, with the clean and the attacked image of each
    result and the perturbation; nothing if no result has images. `at`: the index of the attack
    strength.
    """
    if not strip(results.values(), 1, at):
        return
    for scale, label in zip(SCALES, ("original size", "× 8"), strict=True):
        _file(
            f"Pictures, {label} (PNG)",
            partial(strip, list(results.values()), scale, at),
            f"{key}-pictures{f'-x{scale}' * (scale > 1)}.png",
            "image/png",
        )


def _measured_files(key: str, results: Mapping[str, Result]) -> None:
    for name, result in results.items():
        _file(
            f"All measured data{name and f', {name}'} (npz)",
            result.to_npz,
            "-".join([key, *map(str.lower, re.findall(r"\w+", name))]) + ".npz",
            "application/zip",
        )


def chosen(key: str) -> list[int]:
    """The indices of the test images chosen in the figure with this `key`, each once."""
    points = (st.session_state.get(key) or {}).get("selection", {}).get("points", [])
    data = (point.get("customdata") for point in points)
    numbers = (one[0] if isinstance(one, Sequence) else one for one in data if one is not None)
    return list(dict.fromkeys(map(int, numbers)))


def _brushed(key: str) -> None:
    if len(found := chosen(key)) == 1:
        choose(found[0])


def downloads(
    figure: go.Figure, results: Mapping[str, Result], frame: Frame, recipe: Recipe | None
) -> None:
    """Draw the *Take home* menu of a figure: its numbers, all measured data, the figure as HTML and
    for a paper, the images, and, with a `recipe`, the lines of Python that make it again and
    notebooks that repeat the runs. Files are made when they are downloaded.
    """
    key, home = frame.key, f"home-{frame.key}"
    with st.popover(
        "Take home", icon=":material/download:", key=home, type="tertiary", on_change="rerun"
    ) as menu:
        if not menu.open:
            return
        _file("Numbers drawn (CSV)", lambda: csv(figure), f"{key}.csv", "text/csv")
        _measured_files(key, results)
        _file("Figure (HTML, works offline)", lambda: html(figure), f"{key}.html", "text/html")
        _for_a_paper(figure, key)
        if (image := frame.image) is not None:
            _file("Picture (PNG)", lambda: image, f"{key}.png", "image/png")
        _strips(key, results, 0)
        if recipe is not None:
            st.markdown("In a notebook:")
            st.code(recipe.code(), language="python", wrap_lines=True)
            _notebooks(key, results)


def _for_a_paper(figure: go.Figure, key: str) -> None:
    """Draw a button that makes a PDF and an SVG of the figure for a paper, or say how else to get
    an SVG; then the caption. A browser on the server makes the files, one figure at a time, and
    only for users who may act.
    """
    if not rights.may_act():
        st.markdown("Figure (SVG): click the camera icon at the upper right of the figure.")
    elif not able():
        st.markdown(
            "Figure (SVG): click the camera icon at the upper right of the figure. A PDF needs"
            " kaleido and Chrome or Chromium on the computer that runs robustviz."
        )
    else:
        wide = st.radio("Width in a paper", WIDTHS, horizontal=True, key=f"wide-{key}")
        if st.button(f"Make a PDF and an SVG, {wide} wide", key=f"paper-{key}"):
            _made(figure, key, wide)
    _caption(figure)


def _made(figure: go.Figure, key: str, wide: str) -> None:
    """Make the PDF and the SVG and offer them for download, or say why they cannot be made."""
    with place():
        rights.check("start the browser that makes files")
        with LONG.turn(), st.spinner("Drawing …"):
            made = vectors(load("robustviz.views.paper").for_paper(figure, wide))
        for kind, mime in (("pdf", "application/pdf"), ("svg", "image/svg+xml")):
            data = made[kind]
            _file(
                f"Figure for a paper ({kind.upper()})", partial(bytes, data), f"{key}.{kind}", mime
            )


def _file(label: str, make: Callable[[], bytes], name: str, mime: str) -> None:
    st.download_button(
        label, make, name, mime, key=f"file-{name}", on_click="ignore", icon=":material/download:"
    )


def picture(image: bytes, said: str, key: str, *, width: int | str = "stretch") -> None:
    """Draw an image, the text `said` below it, which is also its alternative text, and a download
    of the image.
    """
    with st.container(width=width):  # type: ignore[arg-type]
        fitted(image, said)
    st.markdown(said)
    st.download_button(
        "PNG",
        image,
        f"{key}.png",
        "image/png",
        key=f"file-{key}",
        on_click="ignore",
        type="tertiary",
        icon=":material/download:",
    )


def fitted(image: bytes, alt: str) -> None:
    """Draw an image as wide as its container. With a fixed width, Streamlit would blur it and
    encode it again at every interaction.
    """
    st.image(image, width="stretch", alt=alt)


def thumbnails(here: Context, indices: Sequence[int], key: str) -> None:
    """Draw the first `SHOWN` of these test images, each with a button that selects it in all views;
    nothing if there are none.
    """
    shown = list(indices)[:SHOWN]
    if not shown:
        return
    st.markdown(
        f"{len(indices)} image{'s' if len(indices) > 1 else ''} chosen"
        + (f", the first {SHOWN} of them:" if len(indices) > SHOWN else ":")
    )
    with st.container(horizontal=True, key=f"thumbs-{key}"):
        for index in shown:
            with st.container(width=96):
                image, name = thumbnail(here.a, index)
                fitted(image, f"Test image {index}: {name}")
                st.button(
                    f"{index}",
                    key=f"{key}-{index}",
                    help=f"Show image {index} ({name}) in every view",
                    on_click=choose,
                    args=(index,),
                )
