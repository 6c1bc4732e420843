"""The table of runs on the Train page."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from robustviz.runs import folder, queue
from robustviz.runs.folder import Run
from robustviz.runs.inside import Status
from robustviz.training.ladder import headline
from robustviz.types import eps_text
from robustviz.ui import rights, shell
from robustviz.views.train.live import evaluation_or_none, show


def watch() -> None:
    """Draw the table of the user's runs, if there are any.
    It updates every 2 s while a run is queued or running.
    """
    if states := folder.of_user():
        st.header("Your runs" if rights.may_act() else "Runs on this server", divider="gray")
        busy = any(
            status["state"] == "queued" or queue.at_work(run, status) for run, status in states
        )
        shell.fragment(_list, 2.0 if busy else None)()


def _list() -> None:
    """Draw the table of the user's runs, damaged ones too, newest first.
    A run that is selected in the table is shown at the top of the page.
    """
    states = folder.of_user()[::-1]
    faults = [folder.fault(run) for run, _ in states]
    told = [
        (run, status, test, headline(run.evaluations(), test.eps) if test else None)
        for run, status in states
        for test in [evaluation_or_none(run)]
    ]
    rows = [
        {
            "run": run.id,
            "state": "damaged" if fault else "plug-in missing" if run.lacks else status["state"],
            "epochs": epochs(run, status),
            "clean": test.clean_acc if test else None,
            "PGD-20": test.robust_acc if test else None,
            "ε": eps_text(test.eps) if test else "",
            "n": test.n if test else None,
            "every attack": worst.acc if worst else None,
            "of n": worst.n if worst else None,
        }
        for (run, status, test, worst), fault in zip(told, faults, strict=True)
    ]
    st.caption("Tick the box before a run to show it at the top of the page.")
    percent = st.column_config.NumberColumn(format="percent")
    chosen = st.dataframe(
        pd.DataFrame(rows),
        hide_index=True,
        key="jobs",
        on_select="rerun",
        placeholder="",
        selection_mode="single-row",
        column_config={
            "run": st.column_config.TextColumn(width="large"),
            **dict.fromkeys(("clean", "PGD-20", "every attack"), percent),
        },
        alt=f"{len(rows)} runs with state and accuracies",
    )["selection"]["rows"]
    if "plug-in missing" in [row["state"] for row in rows]:
        st.markdown(
            "Some runs need a plug-in that is not here. Select one: its plug-in is named above."
        )
    if damaged := sum(map(bool, faults)):
        st.markdown(
            f"Damaged runs: {damaged}. Select one: the problem is shown above, beside *Remove*."
        )
    if any(test and worst and test.images != worst.images for *_, test, worst in told):
        st.markdown("*every attack* was measured on a different set of images.")
    # only when the selection changes, so that a run started later can be shown
    if chosen and chosen != st.session_state.get("job-row"):
        st.session_state["job-row"] = chosen
        show(states[chosen[0]][0].id)
        st.rerun()


def epochs(run: Run, status: Status) -> str:
    """How many epochs are finished, as `3 of 10`, or while one runs, `in epoch 4 of 10`. Empty for
    damaged and imported runs.
    """
    if not folder.sound(run) or run.imported:
        return ""
    every = run.info.get("epochs")
    if status["state"] == "running" and status["phase"] in ("train", "validate"):
        return f"in epoch {min(status['epoch'] + 1, status['epochs'])} of {every}"
    return f"{len(run.records())} of {every}"
