"""Two training runs side by side: their curves on the same axes, their progress, and buttons."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import altair as alt
import pandas as pd
import streamlit as st

from robustviz.runs import queue
from robustviz.runs.folder import Run
from robustviz.runs.inside import Record
from robustviz.runs.naming import labels
from robustviz.types import UserError, eps_text
from robustviz.ui import cache, networks, rights, shell
from robustviz.views.theme import COLOURS
from robustviz.views.train.live import act, look_after, progressed, show

GOING = ("queued", "running")
KEPT: tuple[tuple[Literal["clean_acc", "robust_acc"], str], ...] = (
    ("clean_acc", "Right untouched"),
    ("robust_acc", "Right under PGD-10"),
)


def watch() -> bool:
    """Draw the two runs that the page's address names: `job` as B and `beside` as A.
    They update every second while one of them is queued or running. Returns whether they are drawn:
    not if the address does not name two runs, and not if they cannot be opened or compared. In the
    second case the reason is drawn.
    """
    asked = [st.query_params.get(name, "") for name in ("beside", "job")]
    if not all(asked):
        return False
    look_after()
    try:
        a, b = (cache.open_by_id(each) for each in asked)
        _check(a, b)
    except UserError as error:
        st.warning(shell.spoken(error))
        return False
    live = any(run.status()["state"] in GOING for run in (a, b))
    shell.fragment(_panel, 1.0 if live else None)(a.id, b.id, live)
    return True


def _panel(a: str, b: str, was_live: bool) -> None:
    try:
        runs = [cache.open_by_id(each) for each in (a, b)]
    except UserError:  # removed or damaged meanwhile: rerun the page, which reports it
        st.rerun()
    statuses = [run.status() for run in runs]
    states = [status["state"] for status in statuses]
    if was_live != any(state in GOING for state in states):
        st.rerun()  # a full rerun, which starts or stops the updates
    if "queued" in states:
        look_after()
    names = dict(zip("ab", labels(runs), strict=True))
    for side, run, status in zip("ab", runs, statuses, strict=True):
        st.markdown(
            f":{shell.side_colour(side)}[**{side.upper()}**] {names[side]} · **{status['state']}**"
            f" · `{run.id}`"
        )
        if status["state"] == "running":
            st.progress(*progressed(status))
        if status["error"]:
            st.error(status["error"])
    _buttons(runs, states)
    _curves(dict(zip("ab", runs, strict=True)), names)


def _check(a: Run, b: Run) -> None:
    """Raises UserError if `a` and `b` are the same run or differ in the data or in ε, so that their
    curves must not be drawn on the same axes.
    """
    if a.id == b.id:
        raise UserError("A and B are the same run: choose another one to compare it with.")
    if networks.data_name(a) != networks.data_name(b):
        raise UserError(
            "These two are trained on different images, so their curves cannot be compared."
        )
    if a.eps != b.eps:
        raise UserError(
            "These two are attacked with different ε, so their curves cannot be compared:"
            f" {eps_text(a.eps)} and {eps_text(b.eps)}."
        )


def _buttons(runs: list[Run], states: Sequence[str]) -> None:
    going = [run for run, state in zip(runs, states, strict=True) if state in GOING]
    with st.container(horizontal=True):
        if all(state == "done" for state in states):
            if st.button(
                "Compare them", key="pair-compare", icon=":material/compare_arrows:", type="primary"
            ):
                a, b = runs
                st.session_state.update({"data": networks.data_name(b), "a": a.id, "b": b.id})
                shell.go("compare")
        elif going and rights.may_act():
            st.button(
                "Stop both" if len(going) > 1 else "Stop it",
                key="pair-stop",
                icon=":material/stop:",
                on_click=act,
                args=("pause, stop and resume", partial(_stop, going), "pair-error"),
            )
        elif going:
            st.caption(rights.sentence("pause, stop and resume"))
        if st.button("Show B alone", key="pair-alone", type="tertiary"):
            show(runs[1].id)
            st.rerun()
    if problem := st.session_state.pop("pair-error", ""):
        st.error(problem)


def _stop(runs: list[Run]) -> None:
    rights.check("pause, stop and resume")
    # the queued one first: otherwise it would start when the other one ends
    for run in sorted(runs, key=lambda run: run.status()["state"] != "queued"):
        if run.status()["state"] in GOING:
            queue.ask(run, "stop")


def _curves(runs: dict[str, Run], names: dict[str, str]) -> None:
    """Draw two charts, clean and under attack, with a line for A and one for B, and a sentence.
    The x axis covers all planned epochs of the longer training, even while few are finished.
    """
    records = {side: run.records() for side, run in runs.items()}
    epochs = max(int(run.info.get("epochs") or 1) for run in runs.values())
    for place, (key, title) in zip(st.columns(2), KEPT, strict=True):
        rows = [
            (record["epoch"], side.upper(), record[key])
            for side, every in records.items()
            for record in every
        ]
        said = ", ".join(
            f"{side.upper()} {names[side]} {every[-1][key]:.1%}"
            for side, every in records.items()
            if every
        )
        place.altair_chart(
            _chart(title, pd.DataFrame(rows, columns=["epoch", "network", "share"]), epochs),
            alt=f"{title}, validation images, over the epochs. {said or 'Still empty.'}",
        )
    eps = eps_text(runs["a"].eps)
    st.markdown(f"{_sentence(records['a'], records['b'])} Both are attacked with ε = {eps}.")


def _sentence(a: Sequence[Record], b: Sequence[Record]) -> str:
    """A sentence on both networks after the last epoch that both have finished.
    It draws no conclusion, because the trainings may still run, and each has only one seed.
    """
    both = min(len(a), len(b))
    if not both:
        return "The curves get one point per epoch during training."
    one, other = a[both - 1], b[both - 1]
    kept = [round(each["robust_acc"] * each["n_val"]) for each in (one, other)]
    of = "" if one["n_val"] == other["n_val"] else f" of {other['n_val']}"
    return (
        f"After epoch {one['epoch']} A is right on {kept[0]} of {one['n_val']} validation images"
        f" under PGD-10, B on {kept[1]}{of}. These are two networks: with other seeds the result"
        " may differ."
    )


def _chart(title: str, rows: pd.DataFrame, epochs: int) -> alt.Chart:
    colours = COLOURS[shell.theme()]
    chart: alt.Chart = (
        alt.Chart(rows, title=title, height=300)
        .mark_line(point=not rows.empty, strokeWidth=3, aria=not rows.empty)
        .encode(
            x=alt.X(
                "epoch:Q",
                scale=alt.Scale(domain=[0, epochs]),
                axis=alt.Axis(tickMinStep=1, format="d"),
            ),
            y=alt.Y(
                "share:Q", title=None, scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%")
            ),
            color=alt.Color(
                "network:N",
                legend=alt.Legend(orient="top", symbolType="stroke", symbolSize=400),
                title=None,
                scale=alt.Scale(domain=["A", "B"], range=[colours["a"], colours["b"]]),
            ),
            strokeDash=alt.StrokeDash(
                "network:N", title=None, scale=alt.Scale(domain=["A", "B"], range=[[1, 0], [6, 4]])
            ),
            tooltip=["epoch:Q", "network:N", alt.Tooltip("share:Q", format=".1%")],
        )
    )
    return chart
