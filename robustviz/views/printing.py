"""Converts a figure to PDF, SVG or PNG. kaleido draws the figure with a Chrome or Chromium that is
installed here.
"""

from __future__ import annotations

import asyncio
import base64
import io
import re
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

import plotly.graph_objects as go
from PIL import Image

from robustviz.imports import load
from robustviz.types import UserError
from robustviz.views.screen import COLOURS as SCREEN, Screen

KINDS = ("pdf", "svg", "png")
DPI = 600  # dots per inch of a PNG, as journals ask for in line drawings
PATIENCE = 90  # seconds that the browser may take to print; kaleido has the same limit
GAP = 16  # pixels between the charts of a first screen
_MM = 96 / 25.4
_PYTHON = f'"{sys.executable}"' if " " in sys.executable else sys.executable
_EMBEDDED = re.compile(rb"/BaseFont\s*/(?:[A-Z]{6}\+)?([\w,.-]+)")


def printed(figure: go.Figure, kind: str) -> bytes:
    """A figure as the bytes of a file of this `kind`: `pdf`, `svg` or `png`. It is as large as the
    figure's layout says, at 96 px per inch. Meant for figures made by `for_paper`. A PDF embeds its
    fonts; a PNG has 600 dots per inch.

    Raises UserError for another `kind`, if kaleido or a browser is missing, or if the browser fails
    or does not respond in time.
    """
    if kind not in KINDS:
        raise UserError(f"A figure can be saved as {', '.join(KINDS)}, not as {kind!r}.", code=2)
    if kind == "png":
        out = io.BytesIO()
        Image.open(io.BytesIO(_drawn(figure, "png"))).save(out, "PNG", dpi=(DPI, DPI))
        return out.getvalue()
    return vectors(figure)[kind] if kind == "pdf" else _in_mm(_drawn(figure, "svg"))


def vectors(figure: go.Figure) -> dict[str, bytes]:
    """A figure as PDF and as SVG: a dict with the bytes under `pdf` and `svg`. kaleido draws the
    figure only once. Raises UserError as `printed` does.
    """
    svg = _drawn(figure, "svg")
    with _told(), ThreadPoolExecutor(1) as pool:  # a notebook's thread already runs a loop
        pdf = pool.submit(asyncio.run, _page(svg.decode(), **_size(figure))).result()
    return {"pdf": pdf, "svg": _in_mm(svg)}


def _size(figure: go.Figure) -> dict[str, float]:
    return {"width": figure.layout.width or 700, "height": figure.layout.height or 400}


def _drawn(figure: go.Figure, kind: str) -> bytes:
    """The bytes of the figure, drawn by kaleido without MathJax, which it would download."""
    with _told():
        opts = {"format": kind, **_size(figure), "scale": DPI / 96 if kind == "png" else 1}
        made: bytes = load("kaleido").calc_fig_sync(figure, opts=opts, kopts={"mathjax": False})
    return made


@contextmanager
def _told() -> Iterator[None]:
    """A context manager: inside it, every error becomes a short UserError about kaleido or its
    browser.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(
            "Saving figures needs kaleido, which is not installed:"
            f" {_PYTHON} -m pip install kaleido"
        ) from error
    except Exception as error:
        if type(error).__name__ == "ChromeNotFoundError":
            raise UserError(
                "Saving figures needs Chrome or Chromium, and neither was found: install one, or"
                " set BROWSER_PATH to it."
            ) from error
        first = str(error.args[0] if error.args else "")  # the rest is debugging advice
        raise UserError(
            f"The browser that saves figures failed: {type(error).__name__}:"
            f" {' '.join(first.split())[:200]} To use another browser, set BROWSER_PATH to it."
        ) from error


async def _page(svg: str, width: float, height: float) -> bytes:
    """Convert an SVG to the bytes of a PDF with one page of exactly `width` by `height` pixels.
    kaleido's own PDF has a margin and a smaller figure.
    """
    html = (
        f"<!doctype html><style>@page{{size:{width / _MM:.4f}mm {height / _MM:.4f}mm;margin:0}}"
        f"html,body{{margin:0;overflow:hidden;height:{height}px}}svg{{display:block}}</style>{svg}"
    )
    async with asyncio.timeout(PATIENCE), load("choreographer").Browser() as browser:
        tab = await browser.create_tab("about:blank")
        tree = await tab.send_command("Page.getFrameTree")
        frame = tree["result"]["frameTree"]["frame"]["id"]
        await tab.send_command("Page.setDocumentContent", {"frameId": frame, "html": html})
        how = {"printBackground": True, "preferCSSPageSize": True, "pageRanges": "1"}
        answer = await tab.send_command("Page.printToPDF", how)
        return _exact(base64.b64decode(answer["result"]["data"]), width * 0.75, height * 0.75)


def _exact(pdf: bytes, *points: float) -> bytes:
    """The PDF with exactly this page width and height in points; browsers round both to 1/300 inch.
    Each new number has as many characters as the old one, because a PDF stores the byte offsets of
    its parts.
    """

    def sized(found: re.Match[bytes]) -> bytes:
        new = (
            f"{size:.9f}"[: len(old)].encode()
            for size, old in zip(points, found.groups(), strict=True)
        )
        return b"/MediaBox [0 0 " + b" ".join(new) + b"]"

    return re.sub(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", sized, pdf)


def _in_mm(svg: bytes) -> bytes:
    """The SVG with width and height in millimetres, so that other programs keep its size."""

    def size(found: re.Match[bytes]) -> bytes:
        return b'%s="%.3fmm"' % (found[1], float(found[2]) / _MM)

    head, end, rest = svg.partition(b">")
    return re.sub(rb'\b(width|height)="([\d.]+)"', size, head) + end + rest


def write(figure: go.Figure, path: str | Path) -> Path:
    """Write a figure to `path`, whose extension is `.pdf`, `.svg` or `.png`; returns the path.
    Raises UserError for another extension, if the file cannot be written, and as `printed` does.
    """
    path = Path(path)
    made = printed(figure, path.suffix.lower().removeprefix("."))
    try:
        path.write_bytes(made)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}.") from error
    return path


def fonts(pdf: bytes) -> list[str]:
    """The sorted names of the fonts embedded in a PDF of `printed`, such as `LiberationSans`."""
    return sorted({found.decode() for found in _EMBEDDED.findall(pdf)})


def check() -> None:
    """Raises UserError if kaleido is not installed or no browser is found."""
    with _told():
        load("kaleido")
        chromium = load("choreographer.browsers.chromium")
        if not chromium.Chromium.find_browser(skip_local=False):
            raise chromium.ChromeNotFoundError


def able() -> bool:
    """Whether figures can be written to files here: kaleido is installed and a browser is found."""
    try:
        check()
    except UserError:
        return False
    return True


_CHART = re.compile(r"<svg\b.*?</svg>", re.DOTALL)
_AROUND = re.compile(r'<(?:div|figure|section)\b[^>]*?\bclass="([\w -]+)"')  # CSS classes
_TWIN = re.compile(r'class="small"[^<>]*>\s*$')
_BARE = re.compile(r"(\sdata-[\w-]+)(?=[\s>])")  # HTML allows an attribute without a value
_STYLE = re.compile(r"<style>(.*?)</style>", re.DOTALL)
_NAMED = re.compile(r"var\(--(\w+)\)")
_SVG = "http://www.w3.org/2000/svg"


def drawing(screen: Screen, at: int = 0) -> bytes:
    """The charts of a first screen, one below the other, as one SVG (bytes) in light colours, with
    the screen's slider at the position with index `at`. Text is stored as text, not as paths. Left
    out are charts at most 100 units wide, such as legend symbols, second versions for phones, and
    invalid XML. Returns b"" if no chart is left.
    """
    charts, boxes = list[ElementTree.Element](), list[list[float]]()
    for found in _CHART.finditer(screen.picture):
        chart = _stilled(screen, found[0], at)
        box = [] if chart is None else [*map(float, chart.get("viewBox", "0 0 0 0").split())]
        # skip outlines over pictures, legend symbols, and the second version of a chart for phones
        if chart is not None and box[2] > 100 and not _TWIN.search(screen.picture[: found.start()]):
            charts.append(chart)
            boxes.append(box)
    if not charts:
        return b""
    wide, top, inside = max(box[2] for box in boxes), 0.0, list[str]()
    for chart, box in zip(charts, boxes, strict=True):
        chart.attrib |= {"x": "0", "y": f"{top:g}", "width": f"{box[2]:g}", "height": f"{box[3]:g}"}
        inside.append(ElementTree.tostring(chart, "unicode"))
        top += box[3] + GAP
    last = len(screen.control.values) - 1 if screen.control else 0
    look = (
        f"svg{{--at:{at / last if last else 0:g};font-family:Helvetica,Arial,sans-serif}}"
        "text{font-size:14px;fill:var(--text)}.a{color:var(--a)}.b{color:var(--b)}"
        ".faint{color:var(--faint)}" + "".join(_STYLE.findall(screen.picture))
    )
    text = (
        f'<svg xmlns="{_SVG}" viewBox="0 0 {wide:g} {top - GAP:g}" width="{wide:g}"'
        f' height="{top - GAP:g}" overflow="visible"><style><![CDATA[{look}]]></style>'
        f'<g class="{" ".join(_AROUND.findall(screen.picture))}">{"".join(inside)}</g></svg>'
    ).replace("currentColor", "var(--text)")
    return _NAMED.sub(lambda found: SCREEN["light"].get(found[1], found[0]), text).encode()


def _stilled(screen: Screen, chart: str, at: int) -> ElementTree.Element | None:
    """A chart as an XML element, with the parts that the slider moves as at position `at`; parts
    whose whole HTML changes stay as they are. None if the chart is not valid XML.
    """
    try:
        root = ElementTree.fromstring(_BARE.sub(r'\1=""', chart))
    except ElementTree.ParseError:
        return None
    for one in root.iter():
        for name in one.attrib.pop("data-move", "").split():
            kind, values = screen.moves.get(name, ("", ()))
            value = values[min(at, len(values) - 1)] if values else ""
            if kind == "text":
                one.text = value
            elif kind and kind != "html":
                one.set(kind, value)
    return root
