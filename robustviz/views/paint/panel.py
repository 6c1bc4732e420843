"""What if you chose the pixels? A canvas on which a person paints where the attacker may go, and
what comes of it.
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import streamlit as st

from robustviz import figures
from robustviz.export import Recipe
from robustviz.runs import folder
from robustviz.stats import Bools
from robustviz.terms import term
from robustviz.types import UserError, eps_text, grey_text
from robustviz.ui import shell, widgets
from robustviz.ui.context import Context
from robustviz.ui.shell import linked, write_address
from robustviz.views.measure import image_of
from robustviz.views.paint.probe import NAMED, cells_of, from_text, grid, to_text
from robustviz.views.paint.result import Painted

START = "centre"
FIXED = tuple(
    name for name in NAMED if name not in ("strongest", "part")
)  # the same pixels for every network
BUTTONS = {  # what each says, and what it paints; the keyboard's way to whole areas
    "centre": ("Centre", "The middle quarter of the image."),
    "edge": ("Edge", "A frame of about a quarter of the image."),
    "strongest": (
        "Strongest pixels",
        (
            "The quarter of the pixels where the loss of model A is steepest: the largest input"
            " gradient."
        ),
    ),
    "part": (
        "PART mask",
        "The pixels that PART calls important for model A: Grad-CAM at the true class, z > 1.",
    ),
    "all": ("All", "Every pixel: the attacker of every robust number."),
    "none": ("Clear", "No pixel."),
}

HTML = """
<canvas tabindex="0" role="application" aria-roledescription="painting canvas" aria-describedby="how"></canvas>
<label>Brush <select><option value="1">1 × 1</option><option value="3" selected>3 × 3</option><option value="5">5 × 5</option>
<option value="9">9 × 9</option></select></label>
<p role="status" aria-live="polite"></p>
<p id="how">Bright pixels may change. Start a stroke on a dark pixel to allow, on a bright one to forbid.
Keyboard: arrow keys move the brush, Space paints.</p>
"""

CSS = """
:host, div { font-family: var(--st-font); font-size: 1rem; color: var(--st-text-color) }
canvas { display: block; width: min(100%, 320px); touch-action: none; cursor: crosshair; image-rendering: pixelated;
  border: 1px solid var(--st-text-color) }
canvas:focus-visible, select:focus-visible { outline: 3px solid var(--st-primary-color); outline-offset: 2px }
label { display: inline-block; margin-top: .5rem }
select { font: inherit; color: var(--st-text-color); background: var(--st-secondary-background-color);
  border: 1px solid var(--st-text-color); border-radius: 4px; padding: .15rem .3rem }
p { margin: .4rem 0 0; max-width: 26rem }
"""

# Called again with new data after every rerun, on the same elements: what must survive hangs on the
# canvas. What Python says about the mask is taken up only where Python changed it (`turn`), else a
# slow answer would undo the stroke in hand.
JS = """
export default function (component) {
  const { data, parentElement, setStateValue } = component;
  const canvas = parentElement.querySelector("canvas");
  const status = parentElement.querySelector("[role=status]");
  const brush = parentElement.querySelector("select");
  const my = (canvas.painting ??= { row: 0, column: 0, turn: null, timer: 0 });
  const { rows, columns, side, width, height } = data;
  const scale = Math.max(2, Math.round(640 / Math.max(width, height)));
  my.send = (text) => setStateValue("mask", `${Date.now()} ${text}`);  // else the same stroke after Clear would be no news
  if (my.turn !== data.turn) {
    my.turn = data.turn;
    clearTimeout(my.timer);
    my.cells = unpack(data.mask);
    my.row = Math.floor(rows / 2);
    my.column = Math.floor(columns / 2);
  }
  if (my.source !== data.image) {
    my.source = data.image;
    my.image = new Image();
    my.image.onload = draw;
    my.image.src = data.image;
  }
  canvas.setAttribute("aria-label", data.label);

  function unpack(text) {
    const bytes = Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (one) => one.charCodeAt(0));
    return Uint8Array.from({ length: rows * columns }, (_, at) => (bytes[at >> 3] >> (7 - (at & 7))) & 1);
  }

  function pack() {
    const bytes = new Uint8Array(Math.ceil(my.cells.length / 8));
    my.cells.forEach((cell, at) => { bytes[at >> 3] |= cell << (7 - (at & 7)); });
    return btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  }

  function allowed(row, column) {
    return row >= 0 && column >= 0 && row < rows && column < columns && my.cells[row * columns + column] === 1;
  }

  function draw() {
    if (canvas.width !== width * scale || canvas.height !== height * scale) {
      canvas.width = width * scale;
      canvas.height = height * scale;
    }
    const pen = canvas.getContext("2d"), cell = side * scale;
    pen.imageSmoothingEnabled = false;
    pen.drawImage(my.image, 0, 0, canvas.width, canvas.height);
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        if (allowed(row, column)) continue;
        pen.fillStyle = "rgba(10, 14, 20, .7)";
        pen.fillRect(column * cell, row * cell, cell, cell);
        pen.strokeStyle = "rgba(190, 200, 210, .55)";  // a dark picture stays legible: forbidden pixels are hatched
        pen.lineWidth = 1;
        pen.beginPath();
        pen.moveTo(column * cell, (row + 1) * cell);
        pen.lineTo((column + 1) * cell, row * cell);
        pen.stroke();
      }
    }
    const edges = new Path2D();
    for (let row = 0; row <= rows; row++) {
      for (let column = 0; column <= columns; column++) {
        if (allowed(row, column) !== allowed(row - 1, column)) { edges.moveTo(column * cell, row * cell); edges.lineTo((column + 1) * cell, row * cell); }
        if (allowed(row, column) !== allowed(row, column - 1)) { edges.moveTo(column * cell, row * cell); edges.lineTo(column * cell, (row + 1) * cell); }
      }
    }
    twice(pen, edges, 4);
    if (parentElement.activeElement === canvas || document.activeElement === canvas) {
      const half = (brush.value - 1) / 2, cursor = new Path2D();
      cursor.rect((my.column - half) * cell, (my.row - half) * cell, brush.value * cell, brush.value * cell);
      twice(pen, cursor, 6);
    }
  }

  function twice(pen, path, thick) {  // black in white: seen on any picture
    for (const [colour, more] of [["#FFFFFF", thick], ["#000000", thick / 2]]) {
      pen.strokeStyle = colour;
      pen.lineWidth = more;
      pen.stroke(path);
    }
  }

  function say(where) {
    const count = my.cells.reduce((sum, cell) => sum + cell, 0);
    const share = `${count} of ${my.cells.length} ${data.unit} allowed (${Math.round((100 * count) / my.cells.length)} %)`;
    status.textContent = where ? `Row ${my.row + 1}, column ${my.column + 1}: ${allowed(my.row, my.column) ? "allowed" : "forbidden"}. ${share}.` : `${share}.`;
  }

  function stamp(value) {
    const half = (brush.value - 1) / 2;
    for (let row = Math.max(0, my.row - half); row <= Math.min(rows - 1, my.row + half); row++)
      for (let column = Math.max(0, my.column - half); column <= Math.min(columns - 1, my.column + half); column++)
        my.cells[row * columns + column] = value;
  }

  function place(event) {
    const box = canvas.getBoundingClientRect();
    const clip = (at, most) => Math.max(0, Math.min(most - 1, Math.floor(at)));
    my.column = clip((((event.clientX - box.left - canvas.clientLeft) / canvas.clientWidth) * width) / side, columns);
    my.row = clip((((event.clientY - box.top - canvas.clientTop) / canvas.clientHeight) * height) / side, rows);
  }

  function later(wait) {
    clearTimeout(my.timer);
    my.timer = setTimeout(() => my.send(pack()), wait);
  }

  canvas.onpointerdown = (event) => {
    if (event.button) return;
    place(event);
    my.stroke = allowed(my.row, my.column) ? 0 : 1;
    canvas.setPointerCapture(event.pointerId);
    clearTimeout(my.timer);
    stamp(my.stroke);
    draw();
    say(false);
  };
  canvas.onpointermove = (event) => {
    if (my.stroke === undefined) return;
    const [row, column] = [my.row, my.column];
    place(event);
    const [to, across] = [my.row, my.column];
    const steps = Math.max(Math.abs(to - row), Math.abs(across - column), 1);  // a fast stroke leaves no gaps
    for (let step = 1; step <= steps; step++) {
      my.row = Math.round(row + ((to - row) * step) / steps);
      my.column = Math.round(column + ((across - column) * step) / steps);
      stamp(my.stroke);
    }
    draw();
    say(false);
  };
  canvas.onpointerup = canvas.onpointercancel = () => {
    if (my.stroke === undefined) return;
    my.stroke = undefined;
    later(0);
  };
  canvas.onkeydown = (event) => {
    const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (move) {
      my.row = Math.max(0, Math.min(rows - 1, my.row + move[0]));
      my.column = Math.max(0, Math.min(columns - 1, my.column + move[1]));
    } else if (event.key === " ") {
      stamp(allowed(my.row, my.column) ? 0 : 1);
      later(700);
    } else return;
    event.preventDefault();
    event.stopPropagation();
    draw();
    say(true);
  };
  canvas.onfocus = canvas.onblur = draw;
  brush.onchange = draw;
  if (my.image.complete) draw();
  say(false);
}
"""

canvas = st.components.v2.component("robustviz.paint", html=HTML, css=CSS, js=JS)


class Masks:
    """What the address may say of a mask: a name, or the text of a grid of this size."""

    def __init__(self, rows: int, columns: int) -> None:
        self.rows, self.columns = rows, columns

    def __contains__(self, text: object) -> bool:
        if text in FIXED:
            return True
        try:
            return isinstance(text, str) and from_text(text, self.rows, self.columns) is not None
        except UserError:
            return False


def what_if(here: Context) -> None:
    """The whole part, closed until somebody asks for it, or until the address brings a painted
    mask.
    """
    state = st.session_state
    state.setdefault("paint-linked", "paint" in st.query_params)
    with st.expander(
        "What if you chose the pixels? Paint the attacker's budget",
        icon=":material/brush:",
        expanded=state["paint-linked"],
        on_change="rerun",
        key="paint-open",
    ) as box:
        if box.open:
            _part(here)


@shell.fragment
def _part(here: Context) -> None:
    with widgets.place():
        _studio(here)


def _studio(here: Context) -> None:
    run = folder.open_model(here.a)
    split, x, y = image_of(run, here.img)
    height, width = x.shape[2:]
    rows, columns, side = grid(height, width)
    linked("paint", START, Masks(rows, columns))
    usual = max(1, round(run.eps * 255))
    left, right = st.columns(2, gap="large")
    with left:
        with st.container(horizontal=True, key="paint-buttons"):
            for name, (label, text) in BUTTONS.items():
                st.button(label, key=f"paint-{name}", help=text, on_click=_fill, args=(here, name))
        if fault := st.session_state.pop("paint-fault", ""):
            st.info(fault, icon=":material/info:")
        cells = cells_of(run, here.img, st.session_state["paint"])
        shown = base64.b64encode(figures.png(x[0].numpy(), max(height, width))).decode()
        canvas(
            key="canvas",
            on_mask_change=_painted,
            data={
                "rows": rows,
                "columns": columns,
                "side": side,
                "width": width,
                "height": height,
                "mask": to_text(cells),
                "turn": f"{here.a} {here.img} {st.session_state.get('paint-turn', 0)}",
                "image": f"data:image/png;base64,{shown}",
                "unit": "pixels" if side == 1 else f"blocks of {side}×{side} pixels",
                "label": (
                    f"Test image {here.img}, {split.classes[int(y)]}: paint which pixels the"
                    " attacker may change"
                ),
            },
        )
    with right:
        top = max(16, min(255, 2 * usual))
        level = st.slider(
            "ε on the painted pixels, in grey levels of 255",
            1,
            top,
            help=term("epsilon"),
            **linked("paint_eps", usual, range(1, top + 1)),
        )
        low = st.slider(
            "ε elsewhere, in grey levels",
            0,
            int(level),
            help=term("part"),
            **linked("paint_low", 0, range(int(level) + 1)),
        )
        write_address()
        settings = _attack(here, cells, int(level), int(low))
        found = (
            widgets.measured(here, "painted", "the painted attack", **settings) if settings else {}
        )
        if found:
            st.markdown(widgets.drawn(found, "painted").sentence)
    if settings and found:
        left, right = st.columns(
            2, gap="large"
        )  # anew: in a narrow window what came of it stands below the button
        with left:
            for name, result in found.items():
                _pictures(name, result)
        with right:
            widgets.draw(
                found,
                Recipe(widgets.runs_of(found), "painted", "painted", settings),
                "painted",
                words="",
            )


def _fill(here: Context, name: str) -> None:
    """A callback: paint a whole area. What depends on a network is model A's, written out, so that
    B gets the same pixels.
    """
    state = st.session_state
    try:
        state["paint"] = (
            name if name in FIXED else to_text(cells_of(folder.open_model(here.a), here.img, name))
        )
        state["paint-turn"] = state.get("paint-turn", 0) + 1
    except UserError as error:
        state["paint-fault"] = str(error)


def _painted() -> None:
    """A callback: a stroke is finished. The browser's word is checked where the mask is read."""
    if said := st.session_state["canvas"].get("mask"):
        st.session_state["paint"] = str(said).rpartition(" ")[2]


def _attack(here: Context, cells: Bools, level: int, low: int) -> dict[str, Any]:
    """The button; the settings of the attack as long as the budget is the one that was attacked,
    else nothing.
    """
    state, mask = st.session_state, st.session_state["paint"]
    asked = [here.sides, here.img, mask, level, low]
    if state["paint-linked"] and "paint-asked" not in state:  # a finding was sent here: show it
        state["paint-asked"] = asked
    if st.button(
        "Attack within this budget", type="primary", key="paint-attack", icon=":material/bolt:"
    ):
        state["paint-asked"] = asked
    if state.get("paint-asked") != asked:
        share = f"{cells.mean():.0%} of the image may change by {level}/255, the rest by {low}/255."
        st.markdown(
            f"{share}"
            f" {'The budget is another now: attack again.' if state.get('paint-asked') else 'Attack to see whether that is enough.'}"
        )
        return {}
    return {"index": here.img, "mask": mask, "eps": level / 255, "eps_low": low / 255}


def _pictures(name: str, found: Painted) -> None:
    change = figures.delta(found.x, found.x_adv, found.eps)
    budget = np.where(found.mask, 0.8, 0.15 + 0.65 * found.eps_low / found.eps)[
        None
    ]  # never the page's own white or black
    said = (
        f"**{name}**, left to right: clean, attacked, the change × {figures.gain(found.eps):.3g}"
        f" (grey: none), the budget (light: {eps_text(found.eps)}, dark:"
        f" {eps_text(found.eps_low)}). Largest change: {grey_text(found.inside)} on painted pixels,"
        f" {grey_text(found.outside)} elsewhere."
    )
    widgets.picture(
        figures.sheet([found.x, found.x_adv, change, budget], 128),
        said,
        f"painted-{name[0].lower()}",
    )
