"""What every view does alike: ask the probes, draw, say what is seen, let it be taken home, and
take up a choice.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import plotly.io
import streamlit as st
from plotly.basedatatypes import BaseFigure

from robustviz import figures
from robustviz.export import Recipe
from robustviz.runs import folder
from robustviz.types import UserError
from robustviz.ui import cache
from robustviz.ui.context import Context, choose, method_label, thumbnail
from robustviz.ui.shell import theme
from robustviz.views.result import Result
from robustviz.views.theme import BRUSH, CONFIG

SHOWN = 12  # thumbnails of a choice; the rest is in its CSV


def names(here: Context) -> dict[str, str]:
    """Run ids of A and B by the names that figures print, distinct: "A PGD-AT"."""
    return {
        f"{side.upper()} {method_label(folder.open_model(run_id).method_key)}": run_id
        for side, run_id in here.sides
    }


def runs_of(found: Mapping[str, Result]) -> dict[str, str]:
    """Run ids by printed name of what was found: a recipe's `runs`."""
    return {name: str(result.meta["run"]) for name, result in found.items()}


@contextmanager
def place() -> Iterator[None]:
    """Where something cannot be shown, a sentence stands in its place, and the rest of the page
    goes on.
    """
    try:
        yield
    except UserError as error:
        st.info(str(error), icon=":material/info:")


def measured(
    networks: Context | Mapping[str, str], probe: str, what: str, cost: str = "", /, **settings: Any
) -> dict[str, Any]:
    """A probe of A and B, or of any run ids by printed name, by their printed names: from memory or
    disk; what is missing is measured now, or with a `cost` ("about 10 s", a network) behind one
    button. A network that cannot answer gets a sentence and is left out.
    """
    named = names(networks) if isinstance(networks, Context) else networks
    unable: dict[str, list[str]] = {}

    def asked(ask: Callable[..., Any], several: Sequence[str]) -> dict[str, Any]:
        found = {}
        for name in several:
            try:
                found[name] = ask(named[name], probe, **settings)
            except UserError as error:  # A and B often share the reason: it is said once, of both
                unable.setdefault(str(error).replace(named[name], "\0"), []).append(named[name])
        return found

    found = asked(cache.kept, list(named))
    missing = [name for name, result in found.items() if result is None]
    spot = st.empty()
    label = (
        f"Measure {what} of {' and '.join(missing)} ({cost}{' each' if len(missing) > 1 else ''})"
    )
    if missing and (not cost or spot.button(label, key=f"measure-{probe}")):
        spot.empty()
        with st.spinner(f"Measuring {what} …"):
            found |= {name: None for name in missing} | asked(cache.probe, missing)
    for reason, those in unable.items():
        st.info(reason.replace("\0", " and ".join(dict.fromkeys(those))), icon=":material/info:")
    return {name: result for name, result in found.items() if result is not None}


class Drawn(BaseFigure):
    """A finished figure: Streamlit asks a figure of Plotly for its dictionary, and here that is
    made already.

    Building and checking a figure takes longer than all the rest of a page.
    """

    def __init__(self, figure: Any) -> None:
        self._made = json.loads(plotly.io.to_json(figure, validate=False))

    def to_dict(self) -> dict[str, Any]:
        """The figure as plain JSON values, not to be changed."""
        return self._made

    @property
    def alt(self) -> str:
        """Its alternative text."""
        return str(self._made["layout"]["meta"]["alt"])

    @property
    def sentence(self) -> str:
        """What is seen in this case."""
        return str(self._made["layout"]["meta"]["sentence"])


def drawn(found: Result | Mapping[str, Any], figure: str, **options: Any) -> Drawn:
    """`robustviz.figures.<figure>` of what was found, in the page's theme; made once for the same
    results and options.
    """
    several = {"": found} if isinstance(found, Result) else dict(found)
    return cache.made(_drawn, several, figure, theme(), json.dumps(options))


def _drawn(found: dict[str, Result], figure: str, template: str, options: str) -> Drawn:
    return Drawn(_figure(found, figure, template, json.loads(options)))


def _figure(
    found: Mapping[str, Any], figure: str, template: str, options: Mapping[str, Any]
) -> Any:
    return getattr(figures, figure)(
        found[""] if list(found) == [""] else found, template=template, **options
    )


def draw(
    found: Result | Mapping[str, Any],
    recipe: Recipe,
    key: str,
    *,
    brush: bool = False,
    words: str | None = None,
    image: bytes | None = None,
) -> list[int]:
    """Draw a figure of what was found, its sentence below it (or `words` instead), and what can be
    downloaded.

    With `brush`, points can be chosen with a click, a box or a lasso: a single one becomes the
    image of every view, and the numbers of all that are chosen come back; each point's `customdata`
    must start with its image's number.
    """
    figure = drawn(found, recipe.figure, **recipe.options)
    if brush:
        st.plotly_chart(
            figure,
            key=key,
            theme=None,
            config=BRUSH,
            alt=figure.alt,
            on_select=lambda: _brushed(key),
        )
    else:
        st.plotly_chart(figure, key=key, theme=None, config=CONFIG, alt=figure.alt)
    if said := figure.sentence if words is None else words:
        st.markdown(said)
    downloads(key, found, recipe.figure, recipe.options, recipe=recipe, image=image)
    return chosen(key) if brush else []


def chosen(key: str) -> list[int]:
    """The numbers of the images that are chosen in the figure `key`, each once."""
    points = (st.session_state.get(key) or {}).get("selection", {}).get("points", [])
    data = [point.get("customdata") for point in points]
    return list(
        dict.fromkeys(
            int(one[0] if isinstance(one, Sequence) else one) for one in data if one is not None
        )
    )


def _brushed(key: str) -> None:
    if len(found := chosen(key)) == 1:
        choose(found[0])


def downloads(
    key: str,
    found: Result | Mapping[str, Any],
    figure: str,
    options: Mapping[str, Any],
    *,
    recipe: Recipe | None = None,
    image: bytes | None = None,
) -> None:
    """A small menu: the numbers, the figure, the picture, and the lines of Python that make them.
    Files are made on demand.
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
        several, template = {"": found} if isinstance(found, Result) else found, theme()
        _file(
            "Numbers drawn (CSV)",
            lambda: figures.csv(_figure(several, figure, template, options)),
            f"{key}.csv",
            "text/csv",
        )
        for name, result in several.items():
            short = re.sub(r"\W+", "-", name).strip("-").lower()
            _file(
                f"All that was measured{name and f', {name}'} (npz)",
                result.to_npz,
                f"{'-'.join(filter(None, (key, short)))}.npz",
                "application/zip",
            )
        whole = "Figure (HTML, works offline)"
        _file(
            whole,
            lambda: figures.html(_figure(several, figure, template, options)),
            f"{key}.html",
            "text/html",
        )
        st.markdown("Figure (SVG): the camera at the figure's upper right.")
        if image is not None:
            _file("Picture (PNG)", lambda: image, f"{key}.png", "image/png")
        if recipe is not None:
            st.markdown("In a notebook:")
            st.code(recipe.code(), language="python", wrap_lines=True)


def _file(label: str, make: Callable[[], bytes], name: str, mime: str) -> None:
    st.download_button(
        label, make, name, mime, key=f"file-{name}", on_click="ignore", icon=":material/download:"
    )


def picture(image: bytes, said: str, key: str, *, width: int | str = "stretch") -> None:
    """A picture with its alternative text, which is printed below it too, and its download."""
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
    """A picture as wide as its place. Given a width, Streamlit would blur and pack it anew at every
    click.
    """
    st.image(image, width="stretch", alt=alt)


def thumbnails(here: Context, indices: Sequence[int], key: str) -> None:
    """Test images by number, the first dozen, each with a button that makes it the image of every
    view.
    """
    shown = list(indices)[:SHOWN]
    if not shown:
        return
    count = f"{len(indices)} images" if len(indices) > 1 else "1 image"
    st.markdown(
        f"{count} chosen" + (f", the first {SHOWN} of them:" if len(indices) > SHOWN else ":")
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
