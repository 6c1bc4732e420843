"""The app's entry script: the list of pages and the menu. Streamlit runs it at every interaction,
so it imports nothing slow.
"""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from robustviz import embedder, imports, paths, plugins
from robustviz.ui import rights, shell, uploads


def panel(name: str) -> Callable[[], None]:
    """A function that draws the page of the view `name`: it imports the view's `panel.py` when it
    is called, and calls its `page()`.
    """

    def run() -> None:
        imports.load(f"robustviz.views.{name}.panel").page()

    return run


def page(name: str, title: str, help: str, *, default: bool = False) -> st.Page:
    """A page of the menu: the file called `name` in the folder `pages`, else the panel of the view
    called `name`. Its address is the name with dashes for `_`; the `default` page is at the app's
    root. `help`: its tooltip.

    Pages have no icons, because the browser would fetch each one as a favicon from another host.
    """
    file = paths.ROOT / "pages" / f"{name}.py"
    return st.Page(
        file if file.is_file() else panel(name),
        title=title,
        url_path=None if default else name.replace("_", "-"),
        default=default,
        help=help,
    )


start = page("start", "Start", "See how a network is fooled", default=True)
loss = page("soft_labels", "Loss", "How close is the boundary, and how steep is the loss?")
glossary = page("glossary", "Glossary", "Methods and words")
menu = [
    start,
    page("tour", "Tour", "Seven steps, each a guess"),
    page("attack", "Attack", "How little does it take?"),
    page("attention", "Attention", "Which pixels matter, and how much may an attack change them?"),
    page("features", "Features", "Do attacked images stay with their class?"),
    loss,
    page("transfer", "Transfer", "Do images attacked on one network fool another?"),
    page("contributions", "Contributions", "How many features does an answer rest on?"),
    page("budget", "Budget", "Why can robustness cost accuracy?"),
    page("compare", "Compare", "Which network is robust, and at what cost?"),
    page("claims", "Claims", "Do the papers' claims hold here?"),
    page("train", "Train", "What if…?"),
    page("your_data", "Your data", "How does a network classify your own pictures?"),
    *(
        st.Page(own.show, title=own.title, url_path=own.name.replace("_", "-"), help=own.help)
        for own in plugins.pages()
    ),
    glossary,
]
moved = st.Page(lambda: None, title=loss.title, url_path="loss")  # people guess this address
rights.greet()
# the shell draws the menu: Streamlit's own is not a valid list for a screen reader
chosen = st.navigation([*menu, moved], position="hidden")
if chosen is moved:
    st.switch_page(loss, query_params={**st.query_params})
st.set_page_config(page_title=f"robustviz · {chosen.title}", page_icon=shell.icon(), layout="wide")
shell.menu(menu, chosen)
uploads.leave(chosen.url_path)
# these two need torch at once: the form comes from the registry, and torch reads pictures
shell.run(chosen, light=chosen.title not in ("Train", "Your data"))
embedder.APP.start()  # last, so that the first page does not wait for it
