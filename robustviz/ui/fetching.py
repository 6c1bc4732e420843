"""Test images that are not on this computer: what a page needs, how much that is, and the button
that fetches it while a bar says how far it is.
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
    """The test images of `source` are not here."""

    def __init__(self, source: Any) -> None:
        self.source = source
        super().__init__(f"The test images of {source.label} are not on this computer yet.")


def ready(run: Run) -> None:
    """Raises Lacking where a run's test images would be downloaded now."""
    load("robustviz.data")
    source = registry.decode("data", run.info["data"])
    if hasattr(source, "files") and not source.here("test"):
        raise Lacking(source)


def offer(lacking: Lacking) -> None:
    """What is needed, how much it is and where from; and the button that fetches it."""
    source = lacking.source
    files = source.files("test")
    much = load("robustviz.data.fetch").megabytes(sum(file.size for file in files))
    root = load("robustviz.data.places").root()
    st.markdown(
        f"{lacking} They are {much} MB from {files[0].host}, fetched once. A page on"
        f" {source.label} needs them; all else works without."
    )
    if not rights.may_act():
        st.info(rights.sentence("fetch images"), icon=":material/info:")
        return
    if failed := st.session_state.pop("fetch-failed", ""):
        st.error(failed, icon=":material/error:")
    spot = st.empty()
    if spot.button(f"Fetch {much} MB", key="fetch-images", icon=":material/download:"):
        rights.check("fetch images")
        waiting = "Others fetch or measure; you are in the line."
        try:
            with LONG.turn(lambda place: spot.info(waiting)), bar(spot.progress):
                source.load("test")
        except UserError as error:  # it is said above the button, which goes on
            st.session_state["fetch-failed"] = spoken(error)
        st.rerun()
    st.caption(f"They are kept in {root / source.key}.")


@contextmanager
def bar(progress: Callable[..., Any]) -> Iterator[None]:
    """Inside, a bar counts what is downloaded, one step a hundredth."""
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
