"""The app's entry script: the table of pages, the sidebar, and nothing heavy. It runs again at
every interaction.
"""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from robustviz import embedder
from robustviz.ui import shell

PAGES = Path(__file__).resolve().parents[2] / "pages"


def page(name: str, title: str, help: str, *, default: bool = False) -> st.Page:
    """One entry of the menu; its address is its file's name with dashes.

    No icons: the browser would fetch each as a favicon from another host.
    """
    return st.Page(
        PAGES / f"{name}.py",
        title=title,
        url_path=None if default else name.replace("_", "-"),
        default=default,
        help=help,
    )


glossary = page("glossary", "Glossary", "Methods and words")
start = page("start", "Start", "See how a network is fooled", default=True)
menu = {
    "See": [
        start,
        page("attack", "Attack", "How little does it take?"),
        page("attention", "Attention", "Which pixels matter, and who gets to touch them?"),
        page("features", "Features", "Do attacked images stay with their class?"),
        page("soft_labels", "Soft labels & loss", "What changes when the target is less sure?"),
    ],
    "Try": [page("train", "Train", "What if…?")],
    "Go deeper": [
        page("contributions", "Contributions", "How many features carry the answer?"),
        page("transfer", "Transfer", "Does a trick for one network fool another?"),
    ],
    "Glossary": [glossary],
}
chosen = st.navigation(
    menu, position="hidden"
)  # drawn by the shell: Streamlit's grouped menu is no valid list to a screen reader
st.set_page_config(
    page_title=f"robustviz · {chosen.title}",
    page_icon=shell.icon(),
    layout="wide",
    initial_sidebar_state="collapsed" if chosen == start else "auto",
)
shell.menu(menu)
shell.run(chosen, light=chosen in (start, glossary))
embedder.APP.start()  # last, so that the first page waits for nothing
