"""What surrounds every page: one clear sentence instead of a traceback, the reset button, and the job in progress."""

from __future__ import annotations

import hashlib
import traceback
from typing import Any

import streamlit as st
from PIL import Image, ImageDraw

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
        st.error(f"The package {error.name} is not installed, so this page cannot work. Install everything with: pip install -r requirements.txt")
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


def reset_button() -> None:
    """A button that forgets every choice made in this session and cleans the address."""
    st.button("Reset page", key="reset", on_click=reset, icon=":material/restart_alt:", help="Forget all choices on this page.")


def reset() -> None:
    """Forget every choice: session state and address."""
    for name in list(st.session_state):
        del st.session_state[name]
    st.query_params.clear()


def theme() -> str:
    """The figure template that fits the page: `robustviz_light` or `robustviz_dark`."""
    return "robustviz_dark" if st.context.theme.type == "dark" else "robustviz_light"


def side_colour(side: str) -> str:
    """The markdown colour name of network A or B, used with its letter, never alone."""
    return {"a": "blue", "b": "orange"}[side]
