"""What surrounds every page: one clear sentence instead of a traceback, the reset button, and the
job in progress.
"""

from __future__ import annotations

import base64
import functools
import gc
import hashlib
import io
import re
import sys
import traceback
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec

import streamlit as st
from PIL import Image, ImageDraw
from streamlit.components.v2.types import ComponentRenderer

from robustviz import imports, paths
from robustviz.types import UserError
from robustviz.ui import rights

Page = Any
P = ParamSpec("P")
HERE = Path(__file__)


@functools.cache
def icon() -> str:
    """The browser tab's picture, a disc with a bite of noise, as an address that holds it: drawn
    here so that no other host is asked for it, and packed once, which Streamlit would do at every
    click.
    """
    picture = Image.new("RGBA", (64, 64))
    pen = ImageDraw.Draw(picture)
    pen.ellipse((4, 4, 60, 60), fill="#0062A3")
    for at in range(4):
        pen.rectangle(
            (34 + 7 * (at % 2), 8 + 7 * at, 40 + 7 * (at % 2), 14 + 7 * at), fill="#F2A33C"
        )
    out = io.BytesIO()
    picture.save(out, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


def run(page: Page, *, light: bool) -> None:
    """Run a page; one that is not `light` once all that pages with a network need is imported. What
    a person can act on is shown as a sentence; anything else as a sentence with details to report.
    """

    def whole() -> None:
        if not light:
            imports.load_all()
        page.run()
        write_address()

    if not _guarded(whole):
        reset_button()
    _keep_modules(len(sys.modules) // 100)


@functools.lru_cache(maxsize=1)
def _keep_modules(hundreds: int) -> None:
    """Modules stay for good: the garbage collector need not go through theirs again, a tenth of a
    second each time.
    """
    gc.freeze()


def fragment(view: Callable[P, None], run_every: float | None = None) -> Callable[P, None]:
    """`st.fragment` whose errors are sentences too: Streamlit shows what a fragment raises where it
    stands, so `run` never hears of it.
    """

    @functools.wraps(view)
    def guarded(*given: P.args, **named: P.kwargs) -> None:
        _guarded(lambda: view(*given, **named))

    return st.fragment(guarded, run_every=run_every)


def spoken(error: UserError) -> str:
    """An error's sentence as Markdown in which what it quotes of others makes no picture and no
    link; what stands between backticks stays code.
    """
    return re.sub(r"(?=\]\s*[(\[:])|(?<=!)(?=\[)|(?=<)", r"\\", str(error))


def _guarded(work: Callable[[], None]) -> bool:
    """Whether it went well; what went wrong is shown."""
    try:
        work()
        return True
    except UserError as error:
        st.error(spoken(error), icon=":material/error:")
    except ModuleNotFoundError as error:
        st.error(
            f"The package {error.name} is not installed, so this page cannot work. Install"
            " everything with: pip install -r requirements.txt"
        )
    except Exception as error:  # Streamlit's own control flow is not an Exception's business
        if type(error).__module__.startswith("streamlit.runtime.scriptrunner"):
            raise
        print(trace := traceback.format_exc(), flush=True)
        st.error(
            f"Something unexpected happened on this page ({type(error).__name__}, report"
            f" {hashlib.sha256(trace.encode()).hexdigest()[:6]})."
            " Reset the page to go on; the server's log has the details."
        )
    return False


@functools.cache
def _frame() -> ComponentRenderer:
    js = HERE.with_name("frame.js").read_text(encoding="utf-8")
    return st.components.v2.component("robustviz.frame", html="<span hidden></span>", js=js)


def presenting() -> bool:
    """Whether a lecturer shows the app: `?present=1`."""
    return st.query_params.get("present") == "1"


def menu(pages: Sequence[Page], chosen: Page) -> None:
    """The name, which leads to the first page, and one row of links to the others; folded on a
    phone. In a lecture there is none: the arrow keys go from page to page.
    """
    st.html(HERE.with_name("shell.css"))
    # popovers hang on the body, which Streamlit does not tell that the app is dark
    scheme = "dark" if st.context.theme.type == "dark" else "light"
    st.html(f"<style>#stFloatingOverlayPortal {{ color-scheme: {scheme} }}</style>")
    present = presenting()
    with st.container(horizontal=True, key="menu", vertical_alignment="center", gap="small"):
        if present:
            _lecture(pages, chosen)
        else:
            _links(pages)
            if st.button("Present", key="lecture", type="tertiary", help="Large type, arrow keys."):
                st.query_params["present"] = "1"
                st.rerun()
            _window(chosen, present)


def _window(chosen: Page, present: bool) -> str:
    """What the browser's window does, and which way an arrow key went, `1`, `-1` or none."""
    went = _frame()(
        key="frame",
        data={"page": chosen.url_path, "present": present},
        on_go_change=lambda: None,
        width="content",
    )
    return str(went.get("go") or "").partition(" ")[2]


def _links(pages: Sequence[Page]) -> None:
    st.page_link(pages[0], label="**◈ robustviz**")
    with st.container(horizontal=True, key="menu-row", gap="small"):
        for page in pages:
            st.page_link(page)
    with (
        st.container(key="menu-folded", width="content"),
        st.popover("Pages", icon=":material/menu:", on_change="rerun") as folded,
    ):
        if folded.open:
            for page in pages:
                st.page_link(page)


def _lecture(pages: Sequence[Page], chosen: Page) -> None:
    """Back, on and out, by the mouse or an arrow key."""
    at, went = pages.index(chosen), _window(chosen, True)
    st.html(HERE.with_name("lecture.css"))
    ways = {
        -1: ("Previous page", ":material/arrow_back:"),
        1: ("Next page", ":material/arrow_forward:"),
    }
    for way, (said, icon) in ways.items():
        there = 0 <= at + way < len(pages)
        pressed = st.button(
            said, key=f"lecture{way}", icon=icon, disabled=not there, type="tertiary"
        )
        if there and (pressed or went == str(way)):
            st.switch_page(pages[at + way], query_params={**st.query_params, "present": "1"})
    if st.button("End lecture", key="lecture-end", icon=":material/close:", type="tertiary"):
        del st.query_params["present"]
        st.rerun()


def go(name: str) -> None:
    """Leave for the page of that name."""
    st.switch_page(str(paths.ROOT / "pages" / f"{name}.py"))


def reset_button() -> None:
    """A button that forgets every choice made in this session and cleans the address."""
    st.button(
        "Reset page",
        key="reset",
        on_click=reset,
        icon=":material/restart_alt:",
        help="Forget all choices on this page.",
    )


def reset() -> None:
    """Forget every choice: session state and address."""
    for name in list(st.session_state):
        if name != rights.TEACHER:  # who somebody is is no choice
            del st.session_state[name]
    st.query_params.clear()


def linked(key: str, start: Any, allowed: Container[Any]) -> dict[str, Any]:
    """The arguments of a widget whose value lives in the address under `key`, and across pages.

    Its value is what the session holds, else what the address says, else `start`; anything not in
    `allowed` becomes `start`, because an address can say anything, and so does what nobody chose
    where `start` is another one now, as after a change of data. Streamlit's own binding would write
    labels, not run ids. A choice is also kept beside the widget's own state, which Streamlit drops
    while the browser does not show the widget.
    """
    state = st.session_state
    links, chosen = state.setdefault("links", {}), state.setdefault("choices", {})
    if key not in state and key in chosen:  # Streamlit forgot it: its widget is in a shut popover
        state[key] = chosen[key]
    if key in links and key in state and state[key] == links[key] != start:
        state[key] = start
    links[key] = start
    if key not in state:
        said = st.query_params.get(key, start)
        state[key] = (
            int(said)
            if isinstance(start, int) and str(said).isdecimal() and len(str(said)) < 10
            else said
        )
    spans = state.setdefault("spans", {})
    span = repr(allowed) if isinstance(allowed, (range, list, tuple, dict)) else ""
    if state[key] not in allowed:
        state[key] = start
    elif spans.get(key, span) != span:
        state[key] = state[key]  # Streamlit takes it for another widget, and would forget its value
    spans[key] = span
    chosen[key] = state[key]
    return {"key": key, "persist_state": "session"}


def forget(*keys: str) -> None:
    """Let linked values start anew: what was chosen does not fit any more."""
    for key in keys:
        st.session_state.pop(key, None)
        for kept in ("links", "choices"):
            st.session_state.get(kept, {}).pop(key, None)
        st.query_params.pop(key, None)


def pin(said: Mapping[str, str], every: Sequence[str]) -> None:
    """Of the names in `every` the address holds what is `said`, though it be the value that the
    page starts from here; the others are as if they had never been pinned.
    """
    st.session_state["pinned"] = {name: said.get(name, "") for name in every}


def write_address() -> None:
    """Put every linked value into the address; the ones that nobody changed are left out."""
    state = st.session_state
    links, pinned = state.get("links", {}), state.get("pinned", {})
    said: dict[str, str | None] = {}
    for key, start in links.items():
        value = state[key] if key in state else state.get("choices", {}).get(key, start)
        said[key] = None if value == start else str(value)
    said |= {key: value or None for key, value in pinned.items() if value or key not in links}
    for key, text in said.items():
        if text is None:
            st.query_params.pop(key, None)
        elif st.query_params.get(key) != text:
            st.query_params[key] = text


def theme() -> str:
    """The figure template that fits the page: `robustviz_light` or `robustviz_dark`."""
    return "robustviz_dark" if st.context.theme.type == "dark" else "robustviz_light"


def side_colour(side: str) -> str:
    """The markdown colour name of network A or B, used with its letter, never alone."""
    return {"a": "blue", "b": "orange"}[side]
