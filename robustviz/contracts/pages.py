"""The promises of every page of a plug-in."""

from __future__ import annotations

import logging

from robustviz.contracts import hold, promise
from robustviz.imports import load
from robustviz.plugins import Page

SCRIPT = """
from robustviz import plugins
next(page for page in plugins.pages() if page.name == {name!r}).show()
"""


@promise("page")
def it_opens(page: Page) -> None:
    """The page opens without an error, and has exactly one title."""
    app = load("streamlit.testing.v1").AppTest
    # Streamlit would also print the traceback of an error that is reported below
    logging.disable(logging.CRITICAL)
    try:
        shown = app.from_string(SCRIPT.format(name=page.name), default_timeout=240).run()
    finally:
        logging.disable(logging.NOTSET)
    for each in (*shown.exception, *shown.error):
        hold(False, str(each.value))
    hold(
        len(shown.title) == 1,
        f"It has {len(shown.title)} titles instead of one: draw it with header.open(…).",
    )
