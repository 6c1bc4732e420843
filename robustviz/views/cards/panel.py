"""The Compare page's expander for run cards of a class. Uploaded cards stay in the session."""

from __future__ import annotations

import json
from typing import Any

import streamlit as st
from streamlit.runtime.uploaded_file_manager import UploadedFile

from robustviz.imports import load
from robustviz.runs.card import BYTES, Card, of_run, read
from robustviz.types import UserError
from robustviz.ui import networks, rights, shell, stage, widgets
from robustviz.ui.uploads import take
from robustviz.views.cards import pile, strips

TITLE = "What do the runs of a class say together?"
MOST = 200  # cards in one session
SHOWN = 5  # at most so many messages about refused files
KEPT = "cards-kept"


@shell.fragment
def drawer() -> None:
    """Draw the Compare page's expander for run cards; its content is computed only while it is
    open.
    """
    more: Any = stage.more("cards", "Cards of a class: all its runs in one picture")
    with more:
        if more.open:
            _inside()


def _inside() -> None:
    """Draw the content of the expander: an upload field with messages on refused files, the picture
    of all cards in this session, and a table of them.
    """
    if rights.may_act():
        take(
            "Run cards, all at once",
            "cards",
            _dropped,
            several=True,
            megabytes=1,
            help="`python -m robustviz run card RUN` writes one, of at most 20 KB."
            " They stay in this session.",
        )
    else:
        st.info(rights.sentence("drop cards"), icon=":material/info:")
    _own()
    for line in st.session_state.get("cards-said", ()):
        st.info(line, icon=":material/info:")
    cards: dict[str, Card] = st.session_state.get(KEPT, {})
    if not cards:
        st.markdown(
            "No cards yet. Each run gives one card; comparing methods needs three seeds of each."
        )
        return
    layers = pile.layers(cards.values())
    screen = strips.screen(layers)
    stage.show("cards", screen)
    shell.write_address()
    with st.container(horizontal=True):
        widgets.take_home("cards", TITLE, screen, {})
        if st.button("Remove all cards", key="cards-away", type="tertiary"):
            for key in (KEPT, "cards-said"):
                st.session_state.pop(key, None)
            shell.forget("cards")
            st.rerun()
    _table(list(cards.values()), layers)


def _own() -> None:
    """Draw a picker for the runs trained here, and a button to download the chosen one's card."""
    runs = {
        run_id: run
        for run_id, run in networks.trained().items()
        if not run.shipped and not run.imported and any(one.images for one in run.evaluations())
    }
    if not runs:
        return
    with st.container(horizontal=True, vertical_alignment="bottom"):
        chosen = st.selectbox("A run of yours", [*runs], key="cards-run", width=480)
        st.download_button(
            "Its card",
            lambda: of_run(runs[chosen]).to_bytes(),
            f"{chosen}.card.json",
            "application/json",
            key="cards-own",
            on_click="ignore",
            icon=":material/download:",
        )


def _dropped(files: list[UploadedFile]) -> None:
    """Add the uploaded cards to the session, and store messages about them for `_inside`.
    A card with the same run id and settings as an earlier one replaces it. Files that are not
    cards are left out, and so are further cards once the session has `MOST`.
    """
    cards: dict[str, Card] = dict(st.session_state.get(KEPT, {}))
    refused, again, full = [], 0, 0
    for file in files:
        try:
            content = file.getvalue() if file.size <= BYTES else b" " * (BYTES + 1)
            card = read(content, file.name)
        except UserError as error:
            refused.append(shell.spoken(error))
            continue
        # not the id alone: several students may use the same name, such as "mine"
        key = f"{card.id} {json.dumps(card.settings, sort_keys=True)}"
        again += key in cards
        full += key not in cards and len(cards) >= MOST
        if key in cards or len(cards) < MOST:
            cards[key] = card
    said = refused[:SHOWN]
    if len(refused) > SHOWN:
        said.append(f"{len(refused) - SHOWN} more files were refused.")
    if again:
        said.append(
            f"{again} of the cards are of runs that were here already: the last card counts."
            " Students with the same settings need different seeds."
        )
    if full:
        said.append(f"{full} cards are left out: a picture has at most {MOST}.")
    st.session_state[KEPT] = cards
    st.session_state["cards-said"] = said


def _table(cards: list[Card], layers: list[pile.Layer]) -> None:
    """Draw a table with one row per card and a column for each of the first six measures."""
    shown = [layer.measure for layer in layers[:6]]
    names = {layer.measure: layer.name for layer in layers}
    rows = []
    for card in cards:
        found = {
            names[at]: one["right"] / one["n"]
            for one in card.numbers
            for at in [pile.measure(card, one)]
            if at in shown
        }
        rows.append(
            {"run": card.id, "called": card.label, "method": pile.label(card), "seed": card.seed}
            | {names[at]: found.get(names[at]) for at in shown}
            | {"validation under attack": list(card.robust)}
        )
    column = st.column_config
    st.dataframe(
        load("pandas").DataFrame(rows),
        hide_index=True,
        key="cards-table",
        column_config={
            **{names[at]: column.NumberColumn(format="percent") for at in shown},
            "validation under attack": column.LineChartColumn(
                help="Validation accuracy under attack for each epoch.", y_min=0, y_max=1
            ),
        },
        alt=f"{len(rows)} cards: run, method, seed, what was measured",
    )
