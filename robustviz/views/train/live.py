"""The live view of a job: how far it is, what can be asked of it, its curves and its images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import altair as alt
import pandas as pd
import streamlit as st

from robustviz import figures, paths, stats
from robustviz.runs import queue
from robustviz.runs.folder import Run
from robustviz.runs.inside import Record, State, Status
from robustviz.training.evaluation import Evaluation
from robustviz.training.ladder import best_ladder, headline
from robustviz.types import UserError, eps_text
from robustviz.ui import cache, context
from robustviz.views.attack.result import Strip
from robustviz.views.train.estimate import duration

# not blue and orange, which mean networks A and B; 3:1 on both themes
HUES = alt.Scale(range=["#2A8C6C", "#B45C9A", "#8A7A1F"])


def current() -> Run | None:
    """The job to watch: the one the address names, else the one running, else the last one, else
    none.
    """
    if wanted := st.query_params.get("job", ""):
        try:
            return cache.open_by_id(wanted)
        except UserError as error:
            st.warning(str(error))
    return next(iter(queue.running()), next(iter(queue.mine()[::-1]), None))


def watch() -> None:
    """The live view of the job in hand; it ticks each second while there is something to see, and
    then stops.
    """
    queue.pump()
    run = current()
    if run is None:
        return
    st.header("This training", divider="gray")
    live = run.status()["state"] in ("queued", "running")
    st.fragment(_panel, run_every=1.0 if live else None)(run.id, live)


def _panel(run_id: str, was_live: bool) -> None:
    run = cache.open_by_id(run_id)
    status, records = run.status(), run.records()
    state = status["state"]
    if was_live != (state in ("queued", "running")):
        st.rerun()  # a full run, which starts or stops the ticking
    if state == "queued":
        queue.pump()
    st.markdown(
        f"`{run.id}` · **{state}**"
        + (f" · place {_place(run)} in the queue" if state == "queued" else "")
    )
    if state == "running":
        st.progress(*_progress(status))
    for show, words in ((st.error, status["error"]), (st.info, status["note"])):
        if words:
            show(words)
    _buttons(run, state)
    if records:
        _curves(records, run)
    if strip := run.strip():
        _strip(strip, run.classes)
    if test := evaluation_or_none(run):
        low, high = stats.wilson(test.robust_k, test.n)
        st.success(
            f"Test split: {test.clean_k} of {test.n} right untouched, {test.robust_k} of {test.n}"
            f" under PGD-20 (95 % interval {low:.1%} to {high:.1%}) at ε = {eps_text(test.eps)},"
            f" seed {test.seed}."
        )
    found = run.evaluations() if test else []
    if together := headline(found, run.eps):
        st.success(together.beside(test))
    for warning in climbed.warnings if (climbed := best_ladder(found, run.eps)) else ():
        st.warning(warning)


def _place(run: Run) -> int:
    waiting = [other.id for other in queue.waiting()]
    return waiting.index(run.id) + 1 if run.id in waiting else 1


def _progress(status: Status) -> tuple[float, str]:
    epochs, batches = status["epochs"] or 1, status["batches"]
    if not batches and status["phase"] == "evaluate":
        return 1.0, "Evaluating on the test split …"
    if not batches:
        return 0.0, "Starting: loading torch and the images …"
    epoch, batch, left = status["epoch"], status["batch"], status["eta"] or 0
    return (
        min((epoch + batch / batches) / epochs, 1.0),
        f"Epoch {epoch + 1} of {epochs}, batch {batch} of {batches}"
        + (f", about {duration(left)} left" if left > 3 else ""),
    )


def _buttons(run: Run, state: State) -> None:
    def act(do: Callable[[], object]) -> None:
        try:
            do()
        except UserError as error:
            st.session_state["job-error"] = str(error)

    with st.container(horizontal=True):
        if state in ("running", "queued"):
            asked = run.wanted()  # not heard yet: it is after the batch in hand
            for want, soon in (("pause", "Pausing …"), ("stop", "Stopping …")):
                st.button(
                    soon if asked == want else want.title(),
                    key=want,
                    icon=f":material/{want}:",
                    disabled=bool(asked),
                    on_click=act,
                    args=(partial(queue.ask, run, want),),
                )
        elif state in ("paused", "stopped", "interrupted", "failed"):
            st.button(
                "Resume",
                key="resume",
                icon=":material/play_arrow:",
                type="primary",
                on_click=act,
                args=(partial(queue.enqueue, run),),
            )
        elif state == "done" and st.button(
            "Attack it", key="attack-it", icon=":material/bolt:", type="primary"
        ):
            st.session_state.update({"data": context.data_name(run), "b": run.id})
            st.switch_page(str(paths.ROOT / "pages" / "attack.py"))
    if problem := st.session_state.pop("job-error", ""):
        st.error(problem)


def _curves(records: list[Record], run: Run) -> None:
    """Validation accuracies and loss terms against the epoch, as Vega charts that update without
    being drawn anew.
    """
    last = records[-1]
    accuracies = (
        (r["epoch"], name, share)
        for r in records
        for name, share in (("clean", r["clean_acc"]), ("PGD-10", r["robust_acc"]))
    )
    terms = ((r["epoch"], name, value) for r in records for name, value in r["losses"].items())
    left, right = st.columns(2)
    sentence = (
        f"Epoch {last['epoch']}: clean {last['clean_acc']:.1%}, PGD-10 {last['robust_acc']:.1%} of"
        f" {last['n_val']} validation images, {last['seconds']:.1f} s an epoch."
    )
    left.altair_chart(
        _chart(
            f"Validation accuracy, n = {last['n_val']}, ε = {eps_text(run.eps)}",
            pd.DataFrame(accuracies, columns=["epoch", "on", "share"]),
            ".1%",
            scale=alt.Scale(domain=[0, 1]),
            axis=alt.Axis(format="%"),
        ),
        alt=f"Validation accuracy over the epochs. {sentence}",
    )
    losses = ", ".join(f"{name} {value:.3f}" for name, value in last["losses"].items())
    right.altair_chart(
        _chart(
            "Training loss, by term", pd.DataFrame(terms, columns=["epoch", "term", "loss"]), ".3f"
        ),
        alt=f"Training loss terms over the epochs: {losses}",
    )
    st.markdown(sentence)


def _chart(title: str, rows: pd.DataFrame, form: str, **y: Any) -> alt.Chart:
    """The last column of `rows` against the first, a line for each value of the second."""
    x, lines, height = rows.columns
    chart: alt.Chart = (
        alt.Chart(rows, title=title)
        .mark_line(point=True, strokeWidth=3)
        .encode(
            x=alt.X(f"{x}:Q", axis=alt.Axis(tickMinStep=1)),
            y=alt.Y(f"{height}:Q", title=None, **y),
            color=alt.Color(f"{lines}:N", title=None, scale=HUES),
            strokeDash=alt.StrokeDash(f"{lines}:N", title=None),
            tooltip=[x, lines, alt.Tooltip(height, format=form)],
        )
    )
    return chart


def _strip(strip: Strip, names: tuple[str, ...]) -> None:
    """Eight validation images as the net sees them now: clean above, attacked below."""
    count = len(strip.y)
    answers = ", ".join(
        f"{names[a]}→{names[b]}" if a != b else names[a]
        for a, b in zip(strip.pred, strip.pred_adv, strict=True)
        if names
    )
    st.image(
        figures.sheet([*strip.x, *strip.x_adv], 96, columns=count),
        width="stretch",
        alt=f"Eight validation images, clean above and attacked below. The net says: {answers}",
    )
    st.markdown(
        f"After epoch {strip.epoch}, {int((strip.pred_adv == strip.y).sum())} of {count} hold under"
        f" PGD-10 at ε = {eps_text(strip.eps)}. It says: {answers}."
    )


def evaluation_or_none(run: Run) -> Evaluation | None:
    """The plain evaluation, or none where the file is damaged: one bad run must not hide the
    others.
    """
    try:
        return run.evaluation()
    except UserError:
        return None
