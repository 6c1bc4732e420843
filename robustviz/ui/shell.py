"""The frame around every page: the menu, errors as clear sentences, the reset button, and the
choices that are kept in the address.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import gc
import hashlib
import io
import os
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
from robustviz.types import UserError, harmless
from robustviz.ui import rights

Page = Any
P = ParamSpec("P")
HERE = Path(__file__)


@functools.cache
def icon() -> str:
    """The browser tab's icon, a disc with a bite of noise, as a data URL. It is drawn here so that
    no other host is contacted for it, and cached because Streamlit would encode it at every
    interaction.
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
    """Run a page; unless it is `light`, first import all that pages with networks need. If it
    fails, show a sentence and the reset button: the message of a UserError, the package that is not
    installed, or for any other error a code to report.
    """

    def whole() -> None:
        if not light:
            imports.load_all()
        _enter(page.url_path)
        top = st.container()
        page.run()
        write_address()
        with top:
            _tell()

    if not _guarded(whole):
        reset_button()
    _keep_modules(len(sys.modules) // 100)


def _enter(name: str) -> None:
    """Note that the page `name` is shown. If another page was shown before, discard what was noted
    about the address for that page.
    """
    state = st.session_state
    if state.get("entered") != name:
        state["entered"] = name
        for noted in ("on-page", "pinned", "astray"):
            state.pop(noted, None)


def _tell() -> None:
    """Say which values in the address do not exist (`note_astray`), and what the page shows
    instead.
    """
    told = [
        f"The address asked for `{name}={said}`, which is not there: the page"
        + (f" opened with `{name}={shown}` instead." if shown else " left it out.")
        for name, (said, shown) in st.session_state.get("astray", {}).items()
    ]
    if told:
        st.info("  \n".join(told), icon=":material/info:")


@functools.lru_cache(maxsize=1)
def _keep_modules(hundreds: int) -> None:
    """Exclude imported modules from garbage collection, which would take a tenth of a second each
    time. `hundreds` changes when more modules are imported, so that the cached function runs again.
    """
    gc.freeze()


def fragment(view: Callable[P, None], run_every: float | None = None) -> Callable[P, None]:
    """Returns `view` as a Streamlit fragment that shows errors as sentences, and that is rerun
    every `run_every` seconds if this is given. Without this function Streamlit would show a
    traceback, because exceptions of a fragment do not reach `run`.
    """

    @functools.wraps(view)
    def guarded(*given: P.args, **named: P.kwargs) -> None:
        known = len(st.session_state.get("astray", ()))
        _guarded(lambda: view(*given, **named))
        if len(st.session_state.get("astray", ())) > known:
            st.rerun()  # `run` says it, above the page

    return st.fragment(guarded, run_every=run_every)


def spoken(error: UserError) -> str:
    """An error's message as Markdown, escaped so that quoted text of others makes no image and no
    link; text in backticks stays code.
    """
    return re.sub(r"(?=\]\s*[(\[:])|(?<=!)(?=\[)|(?=<)", r"\\", str(error))


def _guarded(work: Callable[[], None]) -> bool:
    """Call `work`, and show its error as a sentence if it raises one. Returns whether it raised
    none. Exceptions by which Streamlit stops or reruns a script are passed on.
    """
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
    except Exception as error:  # Streamlit's control flow uses exceptions too: pass them on
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
    """Whether the app is in lecture mode: `?present=1` in the address."""
    return st.query_params.get("present") == "1"


def menu(pages: Sequence[Page], chosen: Page) -> None:
    """Draw the app's name, which links to the first page, links to all pages (on a phone in a
    popover), and the button that starts lecture mode. In lecture mode there are only buttons for
    the previous page, the next page and the end; the arrow keys work, too. The teacher of a class
    also gets the address to join.
    """
    st.html(HERE.with_name("shell.css"))
    # popovers are children of the body, to which Streamlit does not apply the dark theme
    st.html(f"<style>#stFloatingOverlayPortal {{ color-scheme: {_scheme()} }}</style>")
    present = presenting()
    with st.container(horizontal=True, key="menu", vertical_alignment="center", gap="small"):
        if present:
            _lecture(pages, chosen)
        else:
            _links(pages, chosen)
        if rights.mode() == "class" and rights.may_act():
            _join()
        if not present:
            if st.button("Present", key="lecture", type="tertiary", help="Large type, arrow keys."):
                st.query_params["present"] = "1"
                st.rerun()
            _window(chosen, present)


def _scheme() -> str:
    return "dark" if st.context.theme.type == "dark" else "light"


def _window(chosen: Page, present: bool) -> str:
    """Draw the component that handles the browser window, for scrolling, arrow keys and a change
    between light and dark. Returns the direction of an arrow key that was pressed, as the text `1`
    or `-1`; if none was, another text.
    """
    went = _frame()(
        key="frame",
        data={"page": chosen.url_path, "present": present, "scheme": _scheme()},
        on_go_change=lambda: None,
        width="content",
    )
    return str(went.get("go") or "").partition(" ")[2]


def _join() -> None:
    """Draw a popover with the address at which a class joins, as a QR code if segno is installed.
    Only the teacher sees it, and it has nothing but what everybody may know.
    """
    said = str(st.context.headers.get("Host") or "")
    host = os.environ.get("ROBUSTVIZ_JOIN") or said.rpartition(":")[0]
    address = f"http://{host}:{said.rpartition(':')[2]}"
    with st.popover("Join", type="tertiary", key="join"):
        with contextlib.suppress(ImportError):
            segno = imports.load("segno")
            code = segno.make(address, micro=False).svg_inline(scale=8, dark="#000", light="#fff")
            st.image(code, width=280, alt=f"QR code of {address}")
        st.markdown(f"Join at **{address}**")


def _links(pages: Sequence[Page], chosen: Page) -> None:
    st.page_link(pages[0], label="**◈ robustviz**")
    with st.container(horizontal=True, key="menu-row", gap="small"):
        for page in pages:  # After a click, a tooltip would cover the title, which says the same.
            st.page_link(page, help="" if page is chosen else None)
    with (
        st.container(key="menu-folded", width="content"),
        st.popover("Pages", icon=":material/menu:", on_change="rerun") as folded,
    ):
        if folded.open:
            for page in pages:
                st.page_link(page)


def _lecture(pages: Sequence[Page], chosen: Page) -> None:
    """Draw the buttons of lecture mode (previous page, next page and end), and switch the page when
    one of them or an arrow key is pressed.
    """
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
            # the session has all settings; the new page writes its own into the address
            links = st.session_state.get("links", {})
            rest = {name: said for name, said in st.query_params.items() if name not in links}
            st.switch_page(pages[at + way], query_params={**rest, "present": "1"})
    if st.button("End lecture", key="lecture-end", icon=":material/close:", type="tertiary"):
        del st.query_params["present"]
        st.rerun()


def go(name: str) -> None:
    """Switch to the page defined in the file of that name in `pages`."""
    st.switch_page(str(paths.ROOT / "pages" / f"{name}.py"))


def reset_button() -> None:
    """Draw a button that discards all choices of this session and clears the address."""
    st.button(
        "Reset page",
        key="reset",
        on_click=reset,
        icon=":material/restart_alt:",
        help="Forget all choices on this page.",
    )


def reset() -> None:
    """Discard all choices: everything in the session state but the teacher's rights, and the
    address.
    """
    for name in list(st.session_state):
        if name != rights.TEACHER:  # being the teacher is not a choice
            del st.session_state[name]
    st.query_params.clear()


def linked(key: str, start: Any, allowed: Container[Any], *, told: bool = False) -> dict[str, Any]:
    """The keyword arguments of a widget whose value is stored in the address under `key` and stays
    the same from page to page.

    The value is the one in the session, else the one in the address, else `start`. A value that is
    not in `allowed` is replaced by `start`, because an address can contain anything; if it came
    from the address, the page says so, unless the caller does (`told`). If `start` has changed
    since the last call, for example with the data set, a value that equals the earlier `start` is
    replaced too. The value is also saved apart from the widget's state, which Streamlit discards
    while the widget is not shown. Streamlit can bind a widget to the address itself, but would
    write labels instead of run ids.
    """
    state = st.session_state
    links, chosen = state.setdefault("links", {}), state.setdefault("choices", {})
    if key not in state and key in chosen:  # Streamlit discarded it in a closed popover
        state[key] = chosen[key]
    if key in links and key in state and state[key] == links[key] != start:
        state[key] = start
    links[key] = start
    state.setdefault("on-page", set()).add(key)
    if key not in state:
        said = st.query_params.get(key, start)
        state[key] = (
            int(said)
            if isinstance(start, int) and str(said).isdecimal() and len(str(said)) < 10
            else said
        )
        if state[key] not in allowed and not told:
            note_astray(key, start)
    spans = state.setdefault("spans", {})
    span = repr(allowed) if isinstance(allowed, (range, list, tuple, dict)) else ""
    if state[key] not in allowed:
        state[key] = start
    elif spans.get(key, span) != span:
        state[key] = state[key]  # with other options Streamlit would treat it as a new widget
    spans[key] = span
    chosen[key] = state[key]
    return {"key": key, "persist_state": "session"}


def follow_data(key: str, names: Sequence[str]) -> None:
    """Let this page's data set, linked under `key`, follow `data`, the one that the other pages
    share: when `data` changes to one of `names`, this page's changes to it, unless the address has
    a value under `key`. Until the next change the page can show another one. A `data` in the
    address is moved into the session, or reported (`note_astray`) if it is not in `names`.
    """
    state = st.session_state
    asked = st.query_params.get("data")
    if asked in names:
        state["data"] = asked
    elif asked is not None:
        note_astray("data", names[0])
    st.query_params.pop("data", None)  # from here on, `key` says it
    data = state.get("data")
    if data in names and data != state.get(f"{key}-follows") and key not in st.query_params:
        state[key] = data
    state[f"{key}-follows"] = data


def note_astray(key: str, shown: Any) -> None:
    """Note that the address has a value under `key` that does not exist, for `_tell`. `shown`: what
    is shown instead; None if the page left it out.
    """
    said = harmless(st.query_params[key])[:60]
    st.session_state.setdefault("astray", {})[key] = (said, "" if shown is None else str(shown))


def forget(*keys: str) -> None:
    """Discard the values linked under these keys, because they no longer fit the other choices;
    each is at its default again.
    """
    for key in keys:
        st.session_state.pop(key, None)
        for kept in ("links", "choices"):
            st.session_state.get(kept, {}).pop(key, None)
        st.query_params.pop(key, None)


def pin(said: Mapping[str, str], every: Sequence[str]) -> None:
    """Keep the values in `said` in the address, even where they are the defaults here. `every`: all
    names that may be pinned; those without a value in `said` are no longer pinned.
    """
    st.session_state["pinned"] = {name: said.get(name, "") for name in every}


def write_address() -> None:
    """Write this page's linked values to the address; those that are at their default are left out,
    unless they are pinned (`pin`).
    """
    state = st.session_state
    links, pinned = state.get("links", {}), state.get("pinned", {})
    said: dict[str, str | None] = {}
    for key in state.get("on-page", ()):
        start = links.get(key)
        value = state[key] if key in state else state.get("choices", {}).get(key, start)
        said[key] = None if value == start else str(value)
    said |= {key: value or None for key, value in pinned.items() if value or key not in said}
    for key, text in said.items():
        if text is None:
            st.query_params.pop(key, None)
        elif st.query_params.get(key) != text:
            st.query_params[key] = text


def theme() -> str:
    """The figure template for the page's theme: `robustviz_light` or `robustviz_dark`."""
    return "robustviz_dark" if st.context.theme.type == "dark" else "robustviz_light"


def side_colour(side: str) -> str:
    """The Markdown colour name of a network; `side`: "a" or "b". Always used with the letter."""
    return {"a": "blue", "b": "orange"}[side]
