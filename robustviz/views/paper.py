"""Figures for a paper: exactly as wide as a column, white, with small type, thin lines, vector
graphics and the colours a journal asks for; and a caption that says how they were measured.

`printing.py` turns them into files.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio

from robustviz.types import UserError, eps_text, listed
from robustviz.views.theme import CLASSES, COLOURS, DARK, LIGHT, clear

FONT = "Helvetica"
FALLBACK = "Arial, Liberation Sans, DejaVu Sans, sans-serif"
LINE, MARK = 0.45, 0.65  # widths of lines and markers over those on screen, at equal type size
ROLES = ("a", "b", "text", "grid", "paper", "faint")
# Colours by role, then the colours of ten classes, in class order. Okabe and Ito (2008) have only
# eight, so Tol's (2021) wine and a grey are added. Yellow is last: it is hard to see on white.
_OKABE = ("#0072B2", "#D55E00", "#000000", "#DDDDDD", "#FFFFFF", "#777777")
_GREY = ("#000000", "#7A7A7A", "#000000", "#DDDDDD", "#FFFFFF", "#777777")
PALETTES: Mapping[str, tuple[Mapping[str, str], tuple[str, ...]]] = {
    "robustviz": (COLOURS[LIGHT], CLASSES[LIGHT]),
    "okabe-ito": (
        dict(zip(ROLES, _OKABE, strict=True)),
        (
            *("#009E73", "#CC79A7", "#0072B2", "#E69F00", "#000000"),
            *("#D55E00", "#56B4E9", "#882255", "#999999", "#F0E442"),
        ),
    ),
    "grey": (
        dict(zip(ROLES, _GREY, strict=True)),
        tuple(
            f"#{level:02X}{level:02X}{level:02X}"
            for level in (0, 170, 80, 140, 40, 185, 110, 20, 155, 60)
        ),
    ),
}
_UNITS = {"mm": 96 / 25.4, "cm": 960 / 25.4, "in": 96.0, "pt": 96 / 72}
_LENGTH = re.compile(rf"\s*(\d+(?:\.\d+)?)\s*({'|'.join(_UNITS)})\s*")
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}\b|rgba?\(\s*\d+\s*,\s*\d+\s*,\s*\d+")
_TAG = re.compile(r"<(?!br)[^>]*>|\*\*")
_ABOVE = 1 - 1e-6  # in units of the plot's height: annotations from this y on are above the plot
_LEGEND = {
    **{"orientation": "h", "x": 0, "xref": "paper", "xanchor": "left"},
    **{"yref": "paper", "yanchor": "bottom", "itemwidth": 30, "tracegroupgap": 0},
}


def pixels(length: str) -> float:
    """Convert a length such as `84mm`, `8.4cm`, `3.3in` or `240pt` to CSS pixels (96 per inch).
    Raises UserError for anything else, and for lengths outside 20 mm to 1 m.
    """
    found = _LENGTH.fullmatch(str(length))
    if not found:
        raise UserError(
            "Give a length as a number with mm, cm, in or pt, such as 84mm, not"
            f" {str(length)[:40]!r}.",
            code=2,
        )
    size = float(found[1]) * _UNITS[found[2]]
    if not 20 * _UNITS["mm"] <= size <= 1000 * _UNITS["mm"]:
        raise UserError(f"A figure must be 20mm to 1000mm wide and high, not {length}.", code=2)
    return size


def for_paper(
    figure: go.Figure,
    width: str = "84mm",
    *,
    height: str = "",
    font: str = FONT,
    size: float = 8,
    palette: str = "robustviz",
) -> go.Figure:
    """A copy of a figure from `theme.finish`, made for print: `width` wide, on white, type at
    `size` points in `font`. Title, tool bar and slider are removed, lines are thin, and WebGL
    points become vector graphics. `caption` still includes what the title said.

    `palette`: `robustviz` (the pages' light colours), `okabe-ito` or `grey`; each network and each
    class has the same colour in all figures of a palette. Without `height`, the height follows from
    the contents. Lengths are texts such as `84mm` (see `pixels`). Raises UserError for an invalid
    length, size, font or palette.
    """
    wide, high = pixels(width), pixels(height) if height else 0.0
    _check(font, size, palette)
    px, whole = size * 96 / 72, figure.to_plotly_json()
    change = _Change(_colours(figure, palette), px, wide, palette == "grey")
    gone = ("template", "title", "sliders", "updatemenus", "modebar", "margin", "meta", "legend")
    out = go.Figure(
        data=[change.trace(trace) for trace in whole["data"]],
        layout={k: change.part(v, k) for k, v in whole["layout"].items() if k not in gone},
    )
    meta, title = dict(figure.layout.meta or {}), figure.layout.title
    out.update_layout(
        template=_template(palette),
        font={"family": f"{font}, {FALLBACK}", "size": px},
        meta={"title": title.text or "", "subtitle": title.subtitle.text or ""} | meta,
        width=wide,
        legend={**_LEGEND, "font": {"size": px}},
        margin={"l": 4, "r": 0.8 * px, "t": 0.6 * px, "b": 4, "pad": 0},
    )
    for shape in out.layout.shapes:
        shape.line.width = shape.line.width or 2 * LINE * px / 14
    for axis in (*out.select_xaxes(), *out.select_yaxes()):
        axis.update(
            {"gridwidth": 0.5, "linewidth": 0.7, "tickwidth": 0.7, "zerolinewidth": 0.7},
            # Plotly writes powers of ten 25% larger
            tickfont={"size": px / 1.25 if axis.type == "log" else px},
            title={"font": {"size": px}, "standoff": 0.4 * px},
            ticklen=0 if axis.ticks == "" else 0.3 * px,
            automargin=True,
        )
    return _placed(out, figure, px, high)


def _check(font: str, size: float, palette: str) -> None:
    if palette not in PALETTES:
        known = ", ".join(PALETTES)
        raise UserError(f"There is no palette {palette!r}; there are {known}.", code=2)
    if not 4 <= size <= 40:
        raise UserError(f"The font size must be 4 to 40 points, not {size:g}.", code=2)
    if not re.fullmatch(r"[\w ,-]{1,80}", font):
        raise UserError(f"{font!r} is not a font name; an example is Times New Roman.", code=2)


def _template(palette: str) -> go.layout.Template:
    """The light template with the colours of a palette."""
    made, role = go.layout.Template(pio.templates[LIGHT]), PALETTES[palette][0]
    made.layout.colorway = [role["a"], role["b"]]
    made.layout.font.color = role["text"]
    for axis in (made.layout.xaxis, made.layout.yaxis):
        axis.update(gridcolor=role["grid"], zerolinecolor=role["grid"], linecolor=role["faint"])
    return made


def _colours(figure: go.Figure, palette: str) -> dict[tuple[int, ...], str]:
    """A dict from each colour of the figure's theme, as (red, green, blue), to the palette's colour
    as text. A colour is translated by its role or class, so in the same way in every figure.
    """
    ground = figure.layout.paper_bgcolor or figure.layout.template.layout.paper_bgcolor
    theme = DARK if ground == COLOURS[DARK]["paper"] else LIGHT
    roles, classes = PALETTES[palette]
    return {_rgb(old): roles[name] for name, old in COLOURS[theme].items()} | {
        _rgb(old): new for old, new in zip(CLASSES[theme], classes, strict=True)
    }


def _rgb(colour: str) -> tuple[int, ...]:
    """Red, green and blue (0 to 255) of a colour such as `#0062A3` or `rgba(0,98,163,0.2)`."""
    if colour.startswith("#"):
        return tuple(int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return tuple(map(int, re.findall(r"\d+", colour)[:3]))


class _Change:
    """Copies parts of a figure with the colours, type sizes and line widths of a paper."""

    def __init__(
        self, colours: Mapping[tuple[int, ...], str], px: float, wide: float, grey: bool
    ) -> None:
        self.colours, self.px, self.wide, self.grey = colours, px, wide, grey
        self.shrunk = px / 14  # 14 px is the type size on pages

    def trace(self, trace: Mapping[str, Any]) -> dict[str, Any]:
        """A copy of a trace in the paper's style. WebGL traces become the ordinary ones, because a
        file would contain WebGL as a bitmap.
        """
        made: dict[str, Any] = {name: self.part(value, name) for name, value in trace.items()}
        made["type"] = str(trace.get("type", "scatter")).removesuffix("gl")
        for bars in ("error_x", "error_y"):
            if bars in made:
                made[bars] |= {"thickness": 0.8, "width": 0.15 * self.px}
        marker = made.get("marker") or {}
        if (marker.pop("pattern", None) or {}).get(
            "shape"
        ):  # a browser prints hatching as a bitmap
            marker |= {"color": clear(str(marker["color"]), 0.4)}
        if made["type"] == "scatter" and "lines" in str(made.get("mode", "lines")):
            made["line"] = {"width": self._line(2)} | made.get("line", {})
        if made["type"] == "heatmap" and self._fits(trace):
            made["textfont"] = {"size": self.px}
        return made

    def _line(self, width: Any) -> Any:
        return np.maximum(0.4, _array(width) * self.shrunk * LINE).tolist()

    def _fits(self, heat: Mapping[str, Any]) -> bool:
        """Whether the texts in the cells of a heatmap, at the paper's type size, are narrower than
        the cells (estimated).
        """
        z, text = _array(heat["z"]), heat.get("text")
        cell = 0.75 * self.wide / max(1, z.shape[1])
        texts = ["0.00"] if text is None else _array(text).ravel()
        return bool(0.56 * self.px * max((len(str(each)) for each in texts), default=0) < cell)

    def part(self, value: Any, name: str) -> Any:
        """A copy of `value`, the part `name` of the figure, with the paper's colours and sizes."""
        if isinstance(value, Mapping):
            made = {key: self._sized(key, each, name) for key, each in value.items()}
            if name == "colorbar":  # without a given size its title is 20% larger
                title = made.get("title") or {}
                title = title if isinstance(title, dict) else {"text": title}
                made |= {"title": title | {"font": {"size": self.px}}}
            return made
        if self.grey and name.endswith("colorscale"):
            return self._scale(value)
        if isinstance(value, str):
            return _COLOUR.sub(self._recoloured, value)
        if isinstance(value, list | tuple):
            return [self.part(each, name) for each in value]
        if isinstance(value, np.ndarray) and value.dtype == object and name == "color":
            return [self.part(each, name) for each in value.tolist()]
        return value

    def _sized(self, key: str, value: Any, of: str) -> Any:
        """A copy of the value under `key` in the part `of`, scaled if it is a size or a width."""
        if value is None or (isinstance(value, Mapping) and "bdata" not in value):
            return self.part(value, key)
        if key == "size" and of.lower().endswith("font"):
            return self.px
        if key == "width" and of == "line":
            return self._line(value)
        if key == "size" and of == "marker":
            return (_array(value) * self.shrunk * MARK).tolist()
        if key in ("xshift", "yshift", "ax", "ay", "borderpad", "arrowwidth") or (
            key == "thickness" and of == "colorbar"
        ):
            return value * self.shrunk
        return self.part(value, key)

    def _recoloured(self, found: re.Match[str]) -> str:
        new = self.colours.get(_rgb(found[0]))
        if new is None or found[0].startswith("#"):
            return new or found[0]
        return found[0].partition("(")[0] + "(" + ",".join(map(str, _rgb(new)))

    def _scale(self, scale: Any) -> Any:
        """The colour scale from black to white that replaces `scale`. But if `scale` has
        transparency or only one colour, it is returned with the palette's colours.
        """
        if not isinstance(scale, str):
            colours = [str(colour) for _, colour in scale]
            if len(set(colours)) == 1 or any(each.startswith("rgba") for each in colours):
                return [[at, self.part(colour, "")] for at, colour in scale]
        return [[0, "#000000"], [1, "#FFFFFF"]]


def _array(value: Any) -> np.ndarray:
    """An array from any form in which Plotly stores one: an array, a list, or bytes in base64."""
    if isinstance(value, Mapping):
        shape = [int(each) for each in str(value.get("shape", "-1")).split(",")]
        return np.frombuffer(base64.b64decode(value["bdata"]), value["dtype"]).reshape(shape)
    return np.asarray(value)


def _placed(out: go.Figure, figure: go.Figure, px: float, high: float) -> go.Figure:
    """Put the legend of `out` above the plot, set the height of `out`, and return it.

    `high` is the whole height in pixels. If it is 0, the plot is as high as in `figure`, the page's
    version, scaled like the type (from 14 pixels to `px`), and the room for legend and labels is
    added.
    """
    own, usual = figure.layout.margin, pio.templates[LIGHT].layout.margin
    edges = [own[side] if own[side] is not None else usual[side] for side in "tb"]
    on_page = (figure.layout.height or 400) - sum(edges)
    plot = max(60.0, on_page * px / 14)
    above = [
        1 + str(each.text).count("<br>")
        for each in figure.layout.annotations
        if (each.yref or "").endswith(("paper", "domain"))
        and (each.y or 0) >= _ABOVE
        and each.yanchor == "bottom"
    ]
    head = 1.4 * px * max(above, default=0)
    below = 1.6 * px * any(a.showticklabels is not False for a in out.select_xaxes()) + (
        1.6 * px * any(a.title.text for a in out.select_xaxes())
    )
    legend = 1.4 * px * _rows(out, px)
    whole = high or math.ceil(plot + head + below + legend + 0.6 * px)
    out.update_layout(height=whole, margin_t=head + 0.6 * px)
    out.layout.legend.y = 1 + head / max(60.0, whole - head - below - legend)
    return out


def _rows(out: go.Figure, px: float) -> int:
    """The approximate number of rows of the legend with type of `px` pixels; 0 if there is no
    legend. Plotly arranges the entries in columns of equal width if they do not fit in one row.
    """
    traces = [trace for trace in out.data if "showlegend" in trace]  # not pictures
    shown = [trace.name for trace in traces if trace.name and trace.showlegend is not False]
    lone = len(out.data) == 1 and not (traces and traces[0].showlegend)
    if lone or out.layout.showlegend is False or not shown:
        return 0
    sizes, room = [44 + 0.52 * px * len(name) for name in shown], out.layout.width - 4 * px
    return 1 if sum(sizes) <= room else math.ceil(len(shown) / max(1, int(room // max(sizes))))


def caption(figure: go.Figure) -> str:
    """The caption of a figure: one sentence on what it shows and how it was measured. As far as
    they are known, it names the networks, the data, the number of images or the index of a single
    one, the attack with its ε and seed, and what error bars or bands mean. Empty for a figure that
    is not from `theme.finish`.
    """
    meta, title = dict(figure.layout.meta or {}), figure.layout.title
    if "networks" not in meta:
        return ""
    what = meta.get("title", title.text) or meta["kind"].rstrip(".")
    if more := meta.get("subtitle", title.subtitle.text):
        what += f" ({more})"
    networks: dict[str, Mapping[str, Any]] = meta["networks"]
    under = {name: _under(each) for name, each in networks.items()}
    alike = len(set(under.values())) == 1
    who = [
        f"{_named(name, each, len(networks))} ({each['run']}"
        + ("" if alike or not under[name] else f", {under[name]}")
        + ")"
        for name, each in networks.items()
        if "run" in each
    ]
    parts = [listed(who), next(iter(under.values())) if alike else "", meta["interval"]]
    said = f"{what}: {'; '.join(filter(None, parts))}" if any(parts) else what
    return re.sub(r"<br>|\s+", " ", _TAG.sub("", said)).strip().rstrip(".") + "."


def _named(name: str, told: Mapping[str, Any], of: int) -> str:
    """How the caption calls a network: by its name, or as `the PART network` if it has no name, or
    if it is the only one and is called A. `told`: the facts about it; `of`: the number of networks.
    """
    return f"the {told['method']} network" if not name or (of == 1 and name == "A") else name


def _under(told: Mapping[str, Any]) -> str:
    """How one network was measured, as text with commas: the images, the attack with its ε, and the
    seed. Facts that `told` lacks are left out.
    """
    n, of = told.get("n"), f" of {told['data']}" if "data" in told else ""
    eps, attack = told.get("eps"), str(told.get("attack", ""))
    if eps is not None:
        attack += f"{' at ' * bool(attack)}ε = {eps_text(float(eps))}"
    return ", ".join(
        filter(
            None,
            [
                f"test image {told['index']}{of}"
                if isinstance(told.get("index"), int)
                else f"{n} test image{'s' * (n != 1)}{of}"
                if isinstance(n, int)
                else of.removeprefix(" of "),
                attack,
                f"seed {told['seed']}" if "seed" in told else "",
            ],
        )
    )
