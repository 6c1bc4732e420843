"""The sweeps (grids of settings that `python -m robustviz sweep` trains) on the Train page: each
one's progress, its runs, and a button to stop it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from robustviz.runs import folder, plans
from robustviz.runs.folder import Run
from robustviz.runs.inside import OVER, Status
from robustviz.runs.plans import Plan
from robustviz.ui import rights, shell
from robustviz.views.train.estimate import duration
from robustviz.views.train.jobs import epochs
from robustviz.views.train.live import act, evaluation_or_none

ROWS = 100  # at most so many runs are shown
FAST, SLOW = 2.0, 10.0  # seconds between two updates: while a sweep is going, and otherwise
# The order of the rows by state; all other states come last.
ORDER = ("running", "queued", "failed", "interrupted", "paused", "stopped", "waits")
Going = dict[str, tuple[Run, Status]]


def watch() -> None:
    """Draw the sweeps, and update them regularly, because sweeps are started in a terminal."""
    going = any(plan.going for plan in plans.every())
    shell.fragment(_sweeps, FAST if going else SLOW)(going)


def _sweeps(was_going: bool) -> None:
    every = plans.every()
    if was_going != any(plan.going for plan in every):
        st.rerun()  # a full rerun, which changes the rate of updates
    if not every:
        return
    st.header("Sweeps", divider="gray")
    for plan in every:
        if plan.wrong:
            st.warning(plan.wrong)
    sound = {plan.name: plan for plan in every if not plan.wrong}
    if not sound:
        return
    names = list(sound)
    if st.session_state.get("sweep-name") not in names:  # that sweep was removed
        st.session_state.pop("sweep-name", None)
    name = st.selectbox("Sweep", names, key="sweep-name", width=360) if len(names) > 1 else names[0]
    _sweep(sound[str(name)])


def _sweep(plan: Plan) -> None:
    known: Going = {run.id: (run, status) for run, status in folder.of_user()}
    states = {name: _state(name, known) for name in plan.runs}
    over = sum(state in OVER for state in states.values())
    busy = any(state in ("queued", "running") for state in states.values())
    left = f", about {duration(plan.seconds)} left" if plan.seconds is not None else ""
    st.progress(over / max(1, len(states)), f"{over} of {len(states)} done{left}")
    st.markdown(f"`{plan.name}` · {_said(plan, over, busy)}")
    _stop(plan, busy)
    shown = sorted(plan.runs, key=lambda name: (_place(states[name]), name))[:ROWS]
    rows = [_row(name, states[name], known) for name in shown]
    percent = st.column_config.NumberColumn(format="percent")
    st.dataframe(
        pd.DataFrame(rows),
        hide_index=True,
        key="sweep-table",
        placeholder="",
        column_config=dict.fromkeys(("clean", "PGD-20"), percent),
        alt=f"{len(rows)} runs of the sweep {plan.name} with state and accuracies",
    )
    if len(states) > len(shown):
        st.markdown(f"{len(shown)} of {len(states)} runs are shown, those that are not done first.")


def _state(name: str, known: Going) -> str:
    """The state of the run with id `name`, for the table; `waits` if it is not among the runs yet,
    `damaged` if it cannot be read. `known`: the user's runs with their statuses, by id.
    """
    if name not in known:
        return "waits"
    run, status = known[name]
    return "damaged" if folder.fault(run) else status["state"]


def _place(state: str) -> int:
    return ORDER.index(state) if state in ORDER else len(ORDER)


def _said(plan: Plan, over: int, busy: bool) -> str:
    """The end of a sentence on whether the sweep continues.
    `over`: its number of finished runs; `busy`: whether one is queued or running.
    """
    if plan.going:
        return "running: the next training starts when this one ends."
    if over == len(plan.runs):
        return "all done."
    return (
        "no command continues it: running trainings finish, and no new one starts."
        if busy
        else "it is paused: run the command that started it again to continue."
    )


def _stop(plan: Plan, busy: bool) -> None:
    if not (plan.going or busy):
        return
    if rights.may_act():
        st.button(
            "Stop the sweep",
            key="sweep-stop",
            icon=":material/stop:",
            on_click=act,
            args=("stop sweeps", partial(plans.stop, plan), "sweep-error"),
        )
    else:
        st.caption(rights.sentence("stop sweeps"))
    if problem := st.session_state.pop("sweep-error", ""):
        st.error(problem)


def _row(name: str, state: str, known: Going) -> dict[str, Any]:
    row: dict[str, Any] = {"run": name, "state": state, "epochs": "", "clean": None}
    row |= {"PGD-20": None, "n": None}
    if name in known and state != "damaged":
        run, status = known[name]
        row["epochs"] = epochs(run, status)
        if (test := evaluation_or_none(run)) and test.eps == run.eps:
            row |= {"clean": test.clean_acc, "PGD-20": test.robust_acc, "n": test.n}
    return row
