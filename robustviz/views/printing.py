"""A figure as PDF, SVG or PNG. A browser on this computer draws it, which kaleido finds."""

from __future__ import annotations

import io
import re
from pathlib import Path

import plotly.graph_objects as go
from PIL import Image

from robustviz.imports import load
from robustviz.types import UserError

KINDS = ("pdf", "svg", "png")
DPI = 600  # of a PNG, which papers ask for where there are lines
_MM = 96 / 25.4
_EMBEDDED = re.compile(rb"/BaseFont\s*/(?:[A-Z]{6}\+)?([\w,.-]+)")


def printed(figure: go.Figure, kind: str) -> bytes:
    """A figure as `pdf`, `svg` or `png` in the size of its layout, an inch to 96 pixels: best one
    that `for_paper` made. A PDF has its fonts in it, a PNG 600 dots an inch.

    Raises UserError where kaleido or a browser is missing, or the browser gives no answer.
    """
    if kind not in KINDS:
        raise UserError(f"A figure is written as {', '.join(KINDS)}, not as {kind!r}.", code=2)
    try:
        kaleido = load("kaleido")
    except ModuleNotFoundError as error:
        raise UserError(
            "A figure becomes a file by kaleido, which is not installed: pip install kaleido"
        ) from error
    layout = figure.layout
    size = {"width": layout.width or 700, "height": layout.height or 400}
    opts = {"format": kind, **size, **({"scale": DPI / 96} if kind == "png" else {})}
    try:
        # mathjax would be fetched from another host
        made: bytes = kaleido.calc_fig_sync(figure, opts=opts, kopts={"mathjax": False})
    except load("kaleido.errors").ChromeNotFoundError as error:
        raise UserError(
            "A figure becomes a file by a browser, and no Chrome or Chromium was found here:"
            " install one, or say where it is in BROWSER_PATH."
        ) from error
    except Exception as error:
        # whatever a browser of somebody else's computer runs into
        raise UserError(
            "The browser that draws figures into files did not manage:"
            f" {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        ) from error
    return {"svg": _in_mm, "png": _with_size}.get(kind, bytes)(made)


def _in_mm(svg: bytes) -> bytes:
    """Its width and height in millimetres, so that a program that takes it in keeps them."""

    def size(found: re.Match[bytes]) -> bytes:
        return b'%s="%.3fmm"' % (found[1], float(found[2]) / _MM)

    head, end, rest = svg.partition(b">")
    return re.sub(rb'\b(width|height)="([\d.]+)"', size, head) + end + rest


def _with_size(png: bytes) -> bytes:
    """With how many dots an inch has, so that it is as wide on paper as it should be."""
    out = io.BytesIO()
    Image.open(io.BytesIO(png)).save(out, "PNG", dpi=(DPI, DPI))
    return out.getvalue()


def write(figure: go.Figure, path: str | Path) -> Path:
    """Write a figure as the file's ending says, `.pdf`, `.svg` or `.png`; the path. Raises
    UserError as `printed` does, and where the file cannot be written.
    """
    path = Path(path)
    made = printed(figure, path.suffix.lower().removeprefix("."))
    try:
        path.write_bytes(made)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}.") from error
    return path


def fonts(pdf: bytes) -> list[str]:
    """The names of the fonts that a PDF of `printed` has in it, as `LiberationSans`."""
    return sorted({found.decode() for found in _EMBEDDED.findall(pdf)})
