"""The Compare page: the scoreboard with its table, and the dialog that chooses A or B from it."""

from __future__ import annotations

from typing import Any

import numpy as np
import streamlit as st

from robustviz.imports import load
from robustviz.runs.folder import Run
from robustviz.runs.naming import method_label
from robustviz.terms import term
from robustviz.types import JSON, UserError
from robustviz.ui import context, header, methods, networks, shell, stage, widgets
from robustviz.ui.context import Context
from robustviz.views import pack
from robustviz.views.cards import panel as cards
from robustviz.views.compare import board as drawn
from robustviz.views.compare.board import Name
from robustviz.views.compare.result import AlongsideSpec
from robustviz.views.compare.scores import Board, Score, board
from robustviz.views.drawing import uri
from robustviz.views.pictures import png
from robustviz.views.screen import Screen

TITLE = "Which network is robust, and at what cost?"
LINES = """from robustviz import open_run

for run in {}:
    print(run, *open_run(run).evaluations(), sep="\\n")"""
BESIDE: dict[str, int] = {}  # settings of `AlongsideSpec` other than its defaults


def page() -> None:
    """Draw the whole page."""
    _view(header.open(TITLE))
    cards.drawer()
    shell.reset_button()


@shell.fragment
def _view(here: Context) -> None:
    context.follow()
    runs = networks.on(here.data)
    found = board(runs.values())
    if found is None:
        st.info("No network of this data has been evaluated yet: train one on the Train page.")
        return
    turn = st.session_state.get("compare-turn", "a")
    screen = _screen(found, runs, here)
    with stage.spot():
        seen = stage.show("compare", screen)
    shell.write_address()  # here: a rerun of the fragment skips the rest of the page
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(
            f"Click a mark to make it :{shell.side_colour(turn)}[**{turn.upper()}**]; the next"
            f" click chooses **{'A' if turn == 'b' else 'B'}**."
        )
        widgets.take_home(
            "compare",
            TITLE,
            screen,
            {},
            rows=lambda: [
                _row(found, found.scores.get(name), run, here) for name, run in runs.items()
            ],
            lines=LINES.format([run_id for _, run_id in here.sides]),
        )
    if seen.clicked in runs:
        st.session_state["compare-turn"] = "a" if turn == "b" else "b"
        _take(turn, seen.clicked, here)
    _table(found, runs, here)
    # outside the expander, so that the page's address keeps them while it is closed
    pickers = {side: shell.linked(f"net-{side.lower()}", "", ["", *runs]) for side in "CD"}
    if any(st.session_state[picker["key"]] for picker in pickers.values()):
        st.session_state.setdefault("more-together", True)  # opened by an address with C or D
    beside: Any = stage.more("together", "Side by side: two to four networks, epoch by epoch")
    with beside:
        if beside.open:
            _together(runs, here, pickers)
    more: Any = stage.more("compare", "More: class by class, and every attack of every network")
    with more:
        if more.open:
            _classes(found, here)
            _evaluations(found, runs)


def drawer(side: str) -> None:
    """Open the scoreboard in a dialog, to choose A (`side` is `a`) or B (`b`) by a click."""
    st.dialog(f"Choose network {side.upper()} by how it scores", width="large")(_drawer)(side)


def _drawer(side: str) -> None:
    state = st.session_state
    here = Context(str(state["data"]), str(state["a"]), str(state.get("b") or ""), 0)
    runs = networks.on(here.data)
    found = board(runs.values())
    if found is None:
        st.info("No network of this data has been evaluated yet.")
        return
    seen = stage.show(f"board-{side}", _screen(found, runs, here))
    st.markdown(f"Click a mark to make it {side.upper()}.")
    if seen.clicked in runs:
        _take(side, seen.clicked, here)


def _screen(found: Board, runs: dict[str, Run], here: Context) -> Screen:
    story = pack.images(here.data)
    images = {
        int(index): uri(png(image / np.float32(255), image.shape[-1]))
        for index, image in zip(story.index, story.x, strict=True)
    }
    names = {
        run_id: Name(networks.label(run), method_label(run.method_key))
        for run_id, run in runs.items()
    }
    return drawn.first(found, names, here.a, here.b, images)


def _take(side: str, run_id: str, here: Context) -> None:
    """Make a run A or B (`side`) and rerun. If it is on the other side, A and B are swapped."""
    other = "b" if side == "a" else "a"
    if run_id == getattr(here, other):
        st.session_state[other] = getattr(here, side) or run_id
    st.session_state[side] = run_id
    st.rerun()


def _table(found: Board, runs: dict[str, Run], here: Context) -> None:
    """Draw the table of all networks, those with a score first.
    The method of a selected one is explained, and buttons make that network A or B.
    """
    order = [*found.scores, *(run_id for run_id in runs if run_id not in found.scores)]
    rows = [_row(found, found.scores.get(run_id), runs[run_id], here) for run_id in order]
    event = st.dataframe(
        load("pandas").DataFrame(rows),
        hide_index=True,
        key="compare-table",
        on_select="rerun",
        selection_mode="single-row",
        column_config=_columns(),
        alt=f"{len(rows)} networks: accuracy untouched and under attack, cost, how measured",
    )
    chosen = [order[at] for at in event["selection"]["rows"] if at < len(order)]
    if not chosen:
        st.markdown("Select a row to read what its method does, and to make it A or B.")
        return
    with st.container(width=480):
        methods.explain(runs[chosen[0]].method_key)
    with st.container(horizontal=True):
        for side in ("a", "b"):
            if st.button(f"Make it {side.upper()}", key=f"compare-{side}"):
                _take(side, chosen[0], here)


def _row(found: Board, one: Score | None, run: Run, here: Context) -> JSON:
    row: JSON = {
        "side": " ".join(side.upper() for side, run_id in here.sides if run_id == run.id),
        "network": networks.label(run),
        "trained at ε": None,
    }
    if one is not None:
        kept, n = found.counted(one, len(found.attacks))
        row |= {
            "trained at ε": None if run.imported else round(255 * one.trained, 1),
            "untouched": one.plain.clean_acc,
            "under attack": kept / n,
            "kept": kept,
            "of": n,
            "attacked at ε": round(255 * one.on.eps, 1),
            "attacks": len(one.steps),
            "hardest": min(one.steps, key=lambda name: int(one.right([name]).sum())),
            "s an epoch": one.seconds,
            "doctor": one.plain.verdict,
        }
    return row | {"epochs": run.info.get("epochs"), "yours": not run.shipped}


def _columns() -> dict[str, Any]:
    column = st.column_config
    grey: Any = {"format": "%g/255"}
    return {
        "side": column.TextColumn("", help="Which network is A and which is B."),
        "network": column.TextColumn(help="Method, unusual settings, architecture, seed."),
        "trained at ε": column.NumberColumn(
            help="0: trained without attacks. Empty: unknown.", **grey
        ),
        "untouched": column.NumberColumn(format="percent", help=term("clean accuracy")),
        "under attack": column.NumberColumn(
            format="percent", help="Share right under every attack that was run on the same images."
        ),
        "kept": column.NumberColumn(help="Number of images right under every attack."),
        "of": column.NumberColumn(help="Number of images attacked."),
        "attacked at ε": column.NumberColumn(
            help="Accuracy under attack cannot be compared between rows with different ε.", **grey
        ),
        "attacks": column.NumberColumn(help="Number of attacks run on these images."),
        "hardest": column.TextColumn(help="The attack under which the fewest images are right."),
        "s an epoch": column.NumberColumn(
            format="%.1f", help="Seconds an epoch took where it was trained; machines differ."
        ),
        "epochs": column.NumberColumn(help=term("epoch")),
        "doctor": column.TextColumn(help=term("doctor")),
        "yours": column.CheckboxColumn(help="Trained here, by you."),
    }


def _together(runs: dict[str, Run], here: Context, pickers: dict[str, dict[str, Any]]) -> None:
    """Draw A, B and up to two more networks over their epochs, and compare each with the first.
    Networks that cannot be compared with the first are left out, and the reason is drawn.
    """
    from robustviz.views.compare import pairs, together as drawer

    chosen = _chosen(runs, here, pickers)
    shell.write_address()
    first, *rest = (runs[run_id] for run_id in chosen)
    for other in list(rest):
        if said := pairs.apart(first, other):
            st.info(said, icon=":material/info:")
            rest.remove(other)
    if not rest:
        st.info("Choose two networks of one data set and one test split to put them side by side.")
        return
    several = [first, *rest]
    named = {
        f"{letter} {networks.label(run)}": run.id
        for letter, run in zip(drawer.LETTERS, several, strict=False)
    }
    spec = AlongsideSpec(index=here.img, **BESIDE)
    results = widgets.measured(named, spec, "the kept epochs", "about 5 s")
    sides = [
        drawer.Side(name[2:], run.records(), results.get(name))
        for name, run in zip(named, several, strict=True)
    ]
    known = [pairs.trained(run) for run in several]
    lines = [
        pairs.network(known[0], one, ("A", letter))
        for letter, one in zip(drawer.LETTERS[1:], known[1:], strict=False)
    ]
    screen = drawer.together(sides, lines[0], shell.theme())
    stage.show("together", screen)
    widgets.take_home("together", "Side by side", screen, results, spec if results else None)
    every = pairs.every_seed(first.data_key)
    for letter, run, one, line in zip(drawer.LETTERS[1:], rest, known[1:], lines, strict=False):
        over = pairs.methods(known[0], one, every, len(rest))
        points = [said for said in line.sure if "points" in said]
        st.markdown(
            f"**A and {letter}.** {pairs.kin(first, run)}\n\n"
            f"*These two networks:* {' '.join([line.line, *points])}\n\n"
            f"*Their methods:* {' '.join(over.lines)}"
        )


def _chosen(runs: dict[str, Run], here: Context, pickers: dict[str, dict[str, Any]]) -> list[str]:
    """Draw the pickers of C and D; returns the ids of A, B, C and D, as far as they are chosen,
    without duplicates.
    """

    def said(run_id: str) -> str:
        return networks.option(runs[run_id]) if run_id else "none"

    with st.container(horizontal=True):
        more = [
            st.selectbox(f"Network {side}", ["", *runs], format_func=said, **picker)
            for side, picker in pickers.items()
        ]
    return list(dict.fromkeys(filter(None, [here.a, here.b, *more])))


def _classes(found: Board, here: Context) -> None:
    """Draw a table of the accuracy of A and B per class, clean and under attack.
    Its first rows are the accuracy over all images and the mean over classes (balanced accuracy).
    """
    columns: dict[str, list[float | None]] = {}
    told, names, counts = [], list[str](), list[int]()
    for side, run_id in here.sides:
        if (one := found.scores.get(run_id)) is None:
            continue
        try:
            rows = load("robustviz.views.measure").class_counts(one.run, one.plain)
        except UserError as error:
            st.info(shell.spoken(error))
            continue
        if not rows:
            continue
        names, counts = list(one.run.classes), [row[0] for row in rows]
        for column, at in (("untouched", 1), ("attacked", 2)):
            shares = [row[at] / row[0] if row[0] else None for row in rows]
            there = [share for share in shares if share is not None]
            whole = sum(row[at] for row in rows) / max(sum(counts), 1)
            alike = sum(there) / max(len(there), 1)
            columns[f"{side.upper()} {column}"] = [whole, alike, *shares]
        told.append(f"{side.upper()}: {one.plain.printed}, {one.plain.n} images.")
    if not columns:
        return
    heads = ["all images", "mean over classes (balanced)", *names]
    table = {"class": heads, "images": [sum(counts), sum(counts), *counts], **columns}
    share = st.column_config.NumberColumn(format="percent")
    st.dataframe(
        load("pandas").DataFrame(table),
        hide_index=True,
        key="compare-classes",
        column_config=dict.fromkeys(columns, share),
        alt=f"{len(names)} classes: accuracy of A and B, untouched and under attack",
    )
    st.markdown(
        " ".join(told) + " The balanced accuracy is the mean over classes, however few images a"
        " class has."
    )


def _evaluations(found: Board, runs: dict[str, Run]) -> None:
    """Draw a table with all evaluations that the scoreboard has of each network (`Score.found`)."""
    rows = [
        {
            "network": networks.label(runs[run_id]),
            "attack": each.printed,
            "ε": round(255 * each.eps, 1),
            "right": each.robust_k,
            "of": each.n,
            "share": each.robust_acc,
            "seed": each.seed,
        }
        for run_id, one in found.scores.items()
        for evaluations in one.found.values()
        for each in evaluations.values()
    ]
    st.dataframe(
        load("pandas").DataFrame(rows),
        hide_index=True,
        key="compare-all",
        column_config={
            "share": st.column_config.NumberColumn(format="percent"),
            "ε": st.column_config.NumberColumn(help="In grey levels of 255."),
        },
        alt=f"{len(rows)} evaluations",
    )
    st.markdown(
        "Each row is one network: one method with one seed. `python -m robustviz report --seeds`"
        " compares methods over seeds."
    )
