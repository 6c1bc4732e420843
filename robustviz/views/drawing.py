"""Small charts and pictures as SVG and HTML text that the browser draws at once. The first screens
of the pages use them, because Plotly's several megabytes of JavaScript would load too late.

Colours are names of the screen's CSS variables (`a`, `b`, `text`, `faint`, `grid`, `paper`), or
begin with `#`, `rgb` or `none`.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape


def uri(png: bytes, kind: str = "image/png") -> str:
    """Image bytes as a `data:` URI of MIME type `kind`."""
    return f"data:{kind};base64,{base64.b64encode(png).decode()}"


def tile(
    src: str,
    size: int,
    alt: str,
    *,
    above: str = "",
    below: str = "",
    move: str = "",
    side: str = "",
) -> str:
    """The HTML of one picture, at most `size` pixels wide, with a line of text above and one below.
    `src`: the picture's address, already escaped for HTML; `alt`: its alternative text. `move`: if
    given, the screen's slider changes the picture's address and the text below; their values are in
    `Screen.moves` under `{move}-src` and `{move}-below`. `side`, `a` or `b`: the line above has the
    colour of network A or B.
    """
    moves = (f' data-move="{move}-src"', f' data-move="{move}-below"') if move else ("", "")
    return (
        f'<figure style="width:min({size}px, 100%)">'
        + (f'<p class="above {side}">{escape(above)}</p>' if above else "")
        + f'<img src="{src}" width="{size}" alt="{escape(alt)}"{moves[0]}>'
        + (f"<figcaption{moves[1]}>{escape(below)}</figcaption>" if below or move else "")
        + "</figure>"
    )


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _colour(name: str) -> str:
    return name if name.startswith(("#", "rgb", "none")) else f"var(--{name})"


@dataclass
class Plot:
    """A chart of `width` by `height` pixels with linear axes; `x` and `y` are their ranges, each
    (low, high). Ticks are pairs (value, label). `left`, `right` and `top` are margins in pixels.
    The drawing methods add SVG text to `parts` and return the plot itself, so calls can be chained;
    `html` returns the whole chart. Their `colour` is the name of a CSS variable, such as `a`
    (network A) or `text`, or begins with `#`, `rgb` or `none`, such as `#2A8C6C`.
    """

    width: int
    height: int
    x: tuple[float, float]
    y: tuple[float, float]
    x_label: str = ""
    y_label: str = ""
    x_ticks: Sequence[tuple[float, str]] = ()
    y_ticks: Sequence[tuple[float, str]] = ()
    left: int = 52
    right: int = 14
    top: int = 12
    parts: list[str] = field(default_factory=list)

    @property
    def bottom(self) -> int:
        """The number of pixels below the horizontal axis: room for its ticks and its label, if
        there are any.
        """
        return 44 if self.x_label else 24 if self.x_ticks else 10

    def px(self, value: float) -> float:
        """Where a value on the x axis lies, in pixels from the left edge of the chart."""
        low, high = self.x
        inner = self.width - self.left - self.right
        return round(self.left + inner * (value - low) / ((high - low) or 1), 2)

    def py(self, value: float) -> float:
        """Where a value on the y axis lies, in pixels from the top edge of the chart."""
        low, high = self.y
        inner = self.height - self.top - self.bottom
        return round(self.height - self.bottom - inner * (value - low) / ((high - low) or 1), 2)

    def _points(self, xs: Sequence[float], ys: Sequence[float]) -> str:
        return " ".join(
            f"{_number(self.px(float(x)))},{_number(self.py(float(y)))}"
            for x, y in zip(xs, ys, strict=True)
        )

    def line(
        self,
        xs: Sequence[float],
        ys: Sequence[float],
        colour: str = "text",
        *,
        width: float = 3,
        dash: str = "",
        more: str = "",
    ) -> Plot:
        """Draw a line through the points (xs, ys), values on the axes. `width`: in pixels; `dash`:
        SVG's dasharray; `more`: further SVG attributes.
        """
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(
            f'<polyline points="{self._points(xs, ys)}" fill="none" stroke="{_colour(colour)}"'
            f' stroke-width="{width}" stroke-linejoin="round"{dashed} {more}/>'
        )
        return self

    def band(
        self, xs: Sequence[float], low: Sequence[float], high: Sequence[float], colour: str
    ) -> Plot:
        """Fill the area between the lines `low` and `high` at `xs`, faintly with `colour`."""
        around = self._points([*xs, *reversed(xs)], [*high, *reversed(low)])
        self.parts.append(f'<polygon points="{around}" fill="{_colour(colour)}" opacity=".18"/>')
        return self

    def dot(
        self,
        x: float,
        y: float,
        colour: str = "text",
        *,
        radius: float = 5,
        hollow: bool = False,
        move: str = "",
        more: str = "",
    ) -> Plot:
        """Draw a dot of `radius` pixels at (x, y), values on the axes; with `hollow`, a ring.
        `move`: if given, the screen's slider moves the dot; its positions in pixels must be in
        `Screen.moves` under `{move}-cx` and `{move}-cy`. `more`: further SVG attributes.
        """
        fill, stroke = ("paper", colour) if hollow else (colour, "paper")
        moves = f' data-move="{move}-cx {move}-cy"' if move else ""
        self.parts.append(
            f'<circle cx="{self.px(x)}" cy="{self.py(y)}" r="{radius}" fill="{_colour(fill)}"'
            f' stroke="{_colour(stroke)}" stroke-width="{4 if hollow else 1}"{moves} {more}/>'
        )
        return self

    def text(
        self,
        x: float,
        y: float,
        words: str,
        colour: str = "text",
        *,
        anchor: str = "start",
        shift: tuple[float, float] = (0, 0),
        more: str = "",
    ) -> Plot:
        """Write `words` at (x, y), values on the axes, moved by `shift` pixels to the right and
        down. `anchor`: which part of the words is at that point, `start`, `middle` or `end`.
        `more`: further SVG attributes.
        """
        self.parts.append(
            f'<text x="{self.px(x) + shift[0]}" y="{self.py(y) + shift[1]}" text-anchor="{anchor}"'
            f' style="fill:{_colour(colour)}" {more}>{escape(words)}</text>'
        )
        return self

    def upright(
        self, x: float, colour: str = "faint", *, dash: str = "4 4", move: str = "", more: str = ""
    ) -> Plot:
        """Draw a dashed vertical line at `x`, a value on the axis, as high as the plot. `move`: if
        given, the screen's slider moves the line; the values of `{move}-x` in `Screen.moves`, such
        as `translate(12 0)`, become its SVG attribute `transform`.
        """
        moves = f' data-move="{move}-x"' if move else ""
        self.parts.append(
            f'<g{moves} {more}><line x1="{self.px(x)}" x2="{self.px(x)}" y1="{self.py(self.y[0])}"'
            f' y2="{self.py(self.y[1])}" stroke="{_colour(colour)}" stroke-width="2"'
            f' stroke-dasharray="{dash}"/></g>'
        )
        return self

    def html(self, alt: str = "") -> str:
        """The chart as SVG text, with axes and everything drawn so far. Screen readers announce it
        as a picture with the text `alt`; without `alt` they skip it.
        """
        named = f'role="img" aria-label="{escape(alt)}"' if alt else 'aria-hidden="true"'
        base, right = self.py(self.y[0]), self.width - self.right
        axes = [
            *(
                f'<line x1="{self.left}" x2="{right}" y1="{self.py(value)}" y2="{self.py(value)}"'
                f' stroke="var(--grid)"/><text x="{self.left - 8}" y="{self.py(value) + 5}"'
                f' text-anchor="end">{escape(label)}</text>'
                for value, label in self.y_ticks
            ),
            f'<line x1="{self.left}" x2="{right}" y1="{base}" y2="{base}" stroke="var(--faint)"/>',
            *(
                f'<text x="{self.px(value)}" y="{base + 18}" text-anchor="middle">{escape(label)}'
                "</text>"
                for value, label in self.x_ticks
            ),
        ]
        if self.x_label:
            middle = (self.left + right) / 2
            axes.append(
                f'<text x="{middle}" y="{self.height - 6}" text-anchor="middle">'
                f"{escape(self.x_label)}</text>"
            )
        if self.y_label:
            middle = (self.top + base) / 2
            axes.append(
                f'<text transform="translate(14 {middle}) rotate(-90)" text-anchor="middle">'
                f"{escape(self.y_label)}</text>"
            )
        return (
            f'<svg viewBox="0 0 {self.width} {self.height}" width="{self.width}" {named}>'
            + "".join([*axes, *self.parts])
            + "</svg>"
        )
