"""What a page shows if its test images are not on this computer: which images are missing, how
large they are, and a button that downloads them with a progress bar.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import streamlit as st

from robustviz import registry
from robustviz.imports import load
from robustviz.runs.folder import Run
from robustviz.types import UserError
from robustviz.ui import rights
from robustviz.ui.line import LONG
from robustviz.ui.shell import spoken


class Lacking(UserError):
    """Raised if the test images of the data set `source` are not on this computer."""

    def __init__(self, source: Any) -> None:
        self.source = source
        super().__init__(f"The test images of {source.label} are not on this computer yet.")


def ready(run: Run) -> None:
    """Raises Lacking if this run's test images must be downloaded first; else does nothing."""
    load("robustviz.data")
    source = registry.decode("data", run.info["data"])
    if hasattr(source, "files") and not source.here("test"):
        raise Lacking(source)


def offer(lacking: Lacking) -> None:
    """Show which images are missing, how large they are and where they come from, and the button
    that downloads them; a user who may not act gets a sentence instead of the button.
    """
    source = lacking.source
    files = source.files("test")
    much = load("robustviz.data.fetch").megabytes(sum(file.size for file in files))
    root = load("robustviz.data.places").root()
    st.markdown(
        f"{lacking} This is a single download of {much} MB from {files[0].host}. Pages on"
        f" {source.label} need the images; everything else works without them."
    )
    if not rights.may_act():
        st.info(rights.sentence("fetch images"), icon=":material/info:")
        return
    if failed := st.session_state.pop("fetch-failed", ""):
        st.error(failed, icon=":material/error:")
    spot = st.empty()
    if spot.button(f"Fetch {much} MB", key="fetch-images", icon=":material/download:"):
        rights.check("fetch images")
        waiting = "Another download or measurement is running; yours is waiting."
        try:
            with LONG.turn(lambda place: spot.info(waiting)), bar(spot.progress):
                source.load("test")
        except UserError as error:  # shown above the button after the rerun
            st.session_state["fetch-failed"] = spoken(error)
        st.rerun()
    st.caption(f"They are kept in {root / source.key}.")


@contextmanager
def bar(progress: Callable[..., Any]) -> Iterator[None]:
    """A context manager: inside it `progress`, such as `st.progress`, shows how much of a download
    is done, updated at each percent.
    """
    fetch, said = load("robustviz.data.fetch"), -1

    def tell(here: int, total: int) -> None:
        nonlocal said
        share = min(100, 100 * here // max(1, total))
        if share != said:
            said = share
            text = f"{fetch.megabytes(here)} of {fetch.megabytes(total)} MB of images"
            progress(share / 100, text=text)

    with fetch.heard(tell):
        yield
