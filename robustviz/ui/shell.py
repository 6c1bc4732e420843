"""What surrounds every page: one clear sentence instead of a traceback, the reset button, and the job in progress."""

from __future__ import annotations

import contextlib
import hashlib
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st
from PIL import Image, ImageDraw
from streamlit.errors import StreamlitAPIException

from robustviz.types import UserError

Page = Any


@st.cache_resource
def icon() -> Image.Image:
    """The browser tab's picture: a disc with a bite of noise, drawn here so that no other host is asked for it."""
    picture = Image.new("RGBA", (64, 64))
    pen = ImageDraw.Draw(picture)
    pen.ellipse((4, 4, 60, 60), fill="#0062A3")
    for at in range(4):
        pen.rectangle((34 + 7 * (at % 2), 8 + 7 * at, 40 + 7 * (at % 2), 14 + 7 * at), fill="#F2A33C")
    return picture


def run(page: Page) -> None:
    """Run a page. What a person can act on is shown as a sentence; anything else as a sentence with details to report."""
    try:
        page.run()
    except UserError as error:
        st.error(str(error), icon=":material/error:")
        reset_button()
    except ModuleNotFoundError as error:
        st.error(
            f"The package {error.name} is not installed, so this page cannot work. Install everything with: pip install -r requirements.txt"
        )
    except Exception as error:  # Streamlit's own control flow is not an Exception's business
        if type(error).__module__.startswith("streamlit.runtime.scriptrunner"):
            raise
        print(traceback.format_exc(), flush=True)
        number = hashlib.sha256(traceback.format_exc().encode()).hexdigest()[:6]
        st.error(
            f"Something unexpected happened on this page ({type(error).__name__}, report {number}). "
            "Reset the page to go on; the server's log has the details."
        )
        reset_button()


# The chosen segment, tab and slider value are text in the primary colour; in dark no one colour can carry white button
# text and be read as text too, so these get a lighter one.
STYLE = """<style>[data-testid="stSliderThumbValue"] p, [data-testid="stTab"][aria-selected="true"] p,
[data-testid="stButtonGroup"] button[data-selected="true"] p { color: light-dark(#1F66C8, #8DB8FF) }</style>"""


def menu(groups: Mapping[str, Sequence[Page]]) -> None:
    """The menu in the sidebar: each group's name, and its pages as links."""
    st.html(STYLE)
    with st.sidebar:
        for name, pages in groups.items():
            st.markdown(f"**{name}**")
            for page in pages:
                st.page_link(page, help=None)


def reset_button() -> None:
    """A button that forgets every choice made in this session and cleans the address."""
    st.button("Reset page", key="reset", on_click=reset, icon=":material/restart_alt:", help="Forget all choices on this page.")


def reset() -> None:
    """Forget every choice: session state and address."""
    start = st.session_state.get("bound", {})
    for name in set(st.session_state) - set(start):
        del st.session_state[name]
    for name, value in start.items():
        if name in st.session_state:
            st.session_state[name] = value
    for name in list(st.query_params):
        with contextlib.suppress(StreamlitAPIException):  # bound ones follow their widget
            del st.query_params[name]


def bound(key: str, start: Any) -> dict[str, Any]:
    """The arguments that tie a widget to the address under `key`. `start` is its value before anybody chose, which is
    what a reset must write: a bound widget that is merely forgotten comes back with what the address says.
    """
    st.session_state.setdefault("bound", {})[key] = start
    return {"key": key, "bind": "query-params"}


def theme() -> str:
    """The figure template that fits the page: `robustviz_light` or `robustviz_dark`."""
    return "robustviz_dark" if st.context.theme.type == "dark" else "robustviz_light"


def side_colour(side: str) -> str:
    """The markdown colour name of network A or B, used with its letter, never alone."""
    return {"a": "blue", "b": "orange"}[side]
