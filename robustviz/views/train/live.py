"""The live view of a training run: progress, buttons to control it, curves and images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import streamlit as st

from robustviz import figures, stats
from robustviz.export import notebook
from robustviz.runs import folder, queue
from robustviz.runs.folder import Run
from robustviz.runs.inside import Record, State, Status
from robustviz.training.config import TrainConfig
from robustviz.training.evaluate import DOCTOR_IMAGES
from robustviz.training.evaluation import Evaluation
from robustviz.training.ladder import best_ladder, headline
from robustviz.types import UserError, eps_text
from robustviz.ui import absent, cache, rights, shell
from robustviz.ui.context import attack
from robustviz.views.attack.result import Strip
from robustviz.views.train.estimate import duration

LOOK = 3.0  # seconds between two looks for a training that somebody else has started
# not blue or orange, the colours of networks A and B; contrast at least 3:1 in both themes
HUES = ["#2A8C6C", "#B45C9A", "#8A7A1F", "#7A8798"]


def show(job: str, beside: str = "") -> None:
    """Make the page show the run with id `job`, alone or, as B, next to the run `beside` as A."""
    st.query_params["job"] = job
    if beside:
        st.query_params["beside"] = beside
    else:
        st.query_params.pop("beside", None)


def current() -> Run | None:
    """The run to show: the one named in the page's address, else one that is being trained, else
    the one that was shown in this session before, else the newest that is queued, paused or
    interrupted, else None. If the run named in the address cannot be opened, the reason is drawn,
    with a button that removes the run if it is the user's own, and the next of these is returned.
    """
    if wanted := st.query_params.get("job", ""):
        try:
            return cache.open_by_id(wanted)
        except UserError as error:
            own, shipped = (home / wanted for home in (folder.home(), folder.zoo()))
            named = bool(folder.ID.fullmatch(wanted))
            if named and not own.is_dir() and not shipped.is_dir():
                absent.explain(wanted)
            else:
                st.warning(shell.spoken(error))
            if named and own.is_dir():
                _removal(Run(own))
    state = st.session_state
    waits = ("queued", "paused", "interrupted")
    left = [run for run, status in queue.states() if status["state"] in waits]
    for run in queue.running()[:1] or ([] if "watched" in state else left[-1:]):
        state["watched"] = run.id
    try:
        return cache.open_by_id(state["watched"]) if "watched" in state else None
    except UserError:  # removed meanwhile
        del state["watched"]
        return None


def watch(config: TrainConfig | None) -> None:
    """Draw the current run; it updates every second while the run is queued or running.
    If there is no run, draw the empty charts of a training of `config`; nothing if that is None.
    For a user who may not train, the page checks every `LOOK` seconds whether somebody else's
    training has started or resumed; that run is then shown, unless the address names another one.
    """
    look_after()
    run, now_and_then = current(), None if rights.may_act() else LOOK
    live = run is not None and run.status()["state"] in ("queued", "running")
    if now_and_then and not live and "job" not in st.query_params:
        shell.fragment(_wait_for_a_run, now_and_then)()
    if run is not None:
        shell.fragment(_panel, 1.0 if live else now_and_then)(run.id, live)
        return
    if config is not None:
        _curves([], int(config.epochs or 1), float(config.eps or 0))
        st.markdown("The curves get one point per epoch during training.")
        empty = np.full((1, 32, 32), 0.5, np.float32)
        st.image(
            figures.sheet([empty] * 16, 96, columns=8),
            width="stretch",
            alt="Sixteen empty places for images",
        )
        st.markdown("Here: eight images, untouched above and attacked below.")


def _wait_for_a_run() -> None:
    """Rerun the page if a training is running, so that the page shows it."""
    if queue.running():
        st.rerun()


def look_after() -> None:
    """Start queued runs on free devices, and mark runs whose process has died as interrupted.
    A session without the right to train only does the latter.
    """
    (queue.pump if rights.may_act() else queue.sweep)()


def _panel(run_id: str, was_live: bool) -> None:
    try:
        run = cache.open_by_id(run_id)
    except UserError:  # removed or damaged meanwhile: rerun the page, which reports it
        st.rerun()
    status, records = run.status(), run.records()
    state = status["state"]
    if was_live != (state in ("queued", "running")):
        st.rerun()  # a full rerun, which starts or stops the updates
    if state == "queued":
        look_after()
    st.markdown(
        f"`{run.id}` · **{state}**"
        + (f" · place {_place(run)} in the queue" if state == "queued" else "")
    )
    if state == "running":
        st.progress(*progressed(status))
    for show, words in ((st.error, status["error"]), (st.info, status["note"])):
        if words:
            show(words)
    if wrong := folder.fault(run) or run.lacks:
        st.warning(shell.spoken(UserError(wrong)))
    _buttons(run, state)
    if test := evaluation_or_none(run):
        _result(run, test)
    _curves(records, int(run.info.get("epochs") or status["epochs"] or 1), run.eps)
    if strip := run.strip():
        _strip(strip, run.classes)
    if records:
        _terms(records)


def _result(run: Run, test: Evaluation) -> None:
    """Draw the result of the evaluation `test`, and a popover on how certain it is."""
    found = run.evaluations()
    st.success(
        f"Tested: {test.clean_k} of {test.n} right untouched, {test.robust_k} under {test.printed}."
    )
    climbed = best_ladder(found, test.eps)
    for warning in climbed.warnings if climbed else ():
        st.warning(warning)
    with st.popover("How sure?", type="tertiary", key="train-sure"):
        low, high = stats.wilson(test.robust_k, test.n)
        st.markdown(
            "This is one network with one training seed: another seed may give another result."
            f"  \nUnder {test.printed} the 95% interval is {low:.1%} to {high:.1%} (Wilson)."
            f"  \nThe attack has ε = {eps_text(test.eps)}, its noise seed {test.seed}."
        )
        if together := headline(found, test.eps):
            st.markdown(together.beside(test))


def _place(run: Run) -> int:
    waiting = [other.id for other in queue.waiting()]
    return waiting.index(run.id) + 1 if run.id in waiting else 1


def progressed(status: Status) -> tuple[float, str]:
    """The progress of a running run as a fraction in [0, 1], and in words."""
    epochs, batch, batches = status["epochs"] or 1, status["batch"], status["batches"]
    if not batches:
        return 0.0, "Starting: loading torch and the images …"
    eta, part = status["eta"] or 0, batch / batches
    left = f", about {duration(eta)} left" if eta > 3 else ""
    if status["phase"] != "evaluate":
        position = f"Epoch {status['epoch'] + 1} of {epochs}, batch {batch} of {batches}"
        return min((status["epoch"] + part) / (epochs + 1), 1.0), position + left
    # The final evaluation counts as one more epoch. Of its images, those of the doctor come last.
    n = max(batches - 6 * DOCTOR_IMAGES, batches // 7)
    doing, seen, of = (
        ("Testing under attack", batch, n)
        if batch < n
        else ("Checking the test with other attacks", batch - n, batches - n)
    )
    return min((epochs + part) / (epochs + 1), 1.0), f"{doing}: {seen} of {of} images{left}"


def act(what: str, do: Callable[[], object], spot: str = "job-error") -> None:
    """Callback of a button: call `do` if this session has the right to do `what`.
    The message of a UserError is stored in the session state under the key `spot`; the page shows
    it below the button.
    """
    try:
        rights.check(what)
        do()
    except UserError as error:
        st.session_state[spot] = shell.spoken(error)


def _removal(run: Run) -> None:
    """Draw a popover with a button that deletes a run's folder, if this session may do that."""
    if not rights.may_act():
        return
    with st.popover("Remove", icon=":material/delete:", key="remove-ask"):
        st.markdown(f"This permanently deletes the folder of `{run.id}` with everything in it.")
        st.button(
            "Delete it permanently",
            key="remove",
            on_click=act,
            args=("remove runs", partial(_remove, run)),
        )
    if problem := st.session_state.pop("job-error", ""):
        st.error(problem)


def _remove(run: Run) -> None:
    queue.remove(run)
    st.query_params.pop("job", None)
    st.session_state.pop("job-row", None)


def _buttons(run: Run, state: State) -> None:
    ask = partial(act, "pause, stop and resume")
    with st.container(horizontal=True):
        if not rights.may_act() and state != "done":
            st.caption(rights.sentence("pause, stop and resume"))
        elif state in ("running", "queued"):
            asked = run.wanted()  # already requested: the run reacts after the current batch
            for want, soon in (("pause", "Pausing …"), ("stop", "Stopping …")):
                st.button(
                    soon if asked == want else want.title(),
                    key=want,
                    icon=f":material/{want}:",
                    disabled=bool(asked),
                    on_click=ask,
                    args=(partial(queue.ask, run, want),),
                )
        elif state in ("paused", "stopped", "interrupted", "failed"):
            st.button(
                "Resume",
                key="resume",
                icon=":material/play_arrow:",
                type="primary",
                on_click=ask,
                args=(partial(queue.enqueue, run),),
            )
        elif state == "done" and st.button(
            "Attack it", key="attack-it", icon=":material/bolt:", type="primary"
        ):
            attack(run)
        if state == "done" and rights.may_act():  # the notebook contains paths of this computer
            st.download_button(
                "Notebook that repeats it",
                partial(notebook, run),
                f"{run.id}.ipynb",
                "application/x-ipynb+json",
                key="notebook",
                on_click="ignore",
                icon=":material/download:",
            )
        if state not in ("running", "queued"):
            _removal(run)
    if problem := st.session_state.pop("job-error", ""):
        st.error(problem)


def _curves(records: list[Record], epochs: int, eps: float) -> None:
    """Draw validation accuracies by epoch as a Vega chart, which updates without being redrawn.
    A sentence below it gives the latest ones. The x axis ends at `epochs`, the number of epochs of
    the whole training, even while few of them are finished.
    """
    accuracies = [
        (r["epoch"], name, share)
        for r in records
        for name, share in (("untouched", r["clean_acc"]), ("PGD-10", r["robust_acc"]))
    ]
    sentence = ""
    if records:
        last = records[-1]
        n = last["n_val"]
        clean, robust = (round(last[name] * n) for name in ("clean_acc", "robust_acc"))
        sentence = (
            f"After epoch {last['epoch']}: {clean} of {n} right untouched, {robust} under PGD-10."
            f" An epoch takes {last['seconds']:.1f} s."
        )
    st.altair_chart(
        _chart(
            f"Right on validation images, ε = {eps_text(eps)}",
            pd.DataFrame(accuracies, columns=["epoch", "on", "share"]),
            ".1%",
            epochs,
            height=270,
            scale=alt.Scale(domain=[0, 1]),
            axis=alt.Axis(format="%"),
        ),
        alt=f"Validation accuracy over the epochs. {sentence or 'Still empty.'}",
    )
    if sentence:
        st.markdown(sentence)


def _terms(records: list[Record]) -> None:
    """Draw a chart of each term of the training loss by epoch."""
    terms = [(r["epoch"], name, value) for r in records for name, value in r["losses"].items()]
    losses = ", ".join(f"{name} {value:.3f}" for name, value in records[-1]["losses"].items())
    st.altair_chart(
        _chart(
            "Training loss, by term",
            pd.DataFrame(terms, columns=["epoch", "term", "loss"]),
            ".3f",
            records[-1]["epoch"],
            height=240,
        ),
        alt=f"Training loss terms over the epochs: {losses}",
    )


def _chart(
    title: str, rows: pd.DataFrame, form: str, epochs: int, height: int, **y: Any
) -> alt.Chart:
    """A chart of the last of the three columns of `rows` against the first, with a line for each
    value of the second. `form`: the format of the values in tooltips; the x axis ends at `epochs`;
    `y`: settings of the y axis.
    """
    x, lines, value = rows.columns
    names = ["untouched", "PGD-10"] if lines == "on" else list(dict.fromkeys(rows[lines]))
    chart: alt.Chart = (
        alt.Chart(rows, title=title, height=height)
        .mark_line(point=not rows.empty, strokeWidth=3, aria=not rows.empty)
        .encode(
            x=alt.X(
                f"{x}:Q",
                scale=alt.Scale(domain=[0, epochs]),
                axis=alt.Axis(tickMinStep=1, format="d"),
            ),
            y=alt.Y(f"{value}:Q", title=None, **y),
            color=alt.Color(
                f"{lines}:N",
                legend=alt.Legend(orient="top"),
                title=None,
                scale=alt.Scale(domain=names, range=HUES[: len(names)]),
            ),
            strokeDash=alt.StrokeDash(f"{lines}:N", title=None, scale=alt.Scale(domain=names)),
            tooltip=[f"{x}:Q", f"{lines}:N", alt.Tooltip(f"{value}:Q", format=form)],
        )
    )
    return chart


def _strip(strip: Strip, names: tuple[str, ...]) -> None:
    """Draw some validation images, the same images attacked below them, and a sentence on how many
    attacked ones the network is right on. `names`: the classes' names, for the alternative text.
    """
    count = len(strip.y)
    answers = ", ".join(
        f"{names[a]}→{names[b]}" if a != b else names[a]
        for a, b in zip(strip.pred, strip.pred_adv, strict=True)
        if names
    )
    st.image(
        figures.sheet([*strip.x, *strip.x_adv], 96, columns=count),
        width="stretch",
        alt=f"{count} validation images, clean above and attacked below. Predictions: {answers}",
    )
    right = int((strip.pred_adv == strip.y).sum())
    st.markdown(
        f"Untouched above, attacked below: after epoch {strip.epoch} the network is right on"
        f" {right} of {count} attacked images."
    )


def evaluation_or_none(run: Run) -> Evaluation | None:
    """The evaluation that tables show: `Run.evaluation()`, which is PGD-20 at the run's ε, else the
    latest other one with PGD-20, such as one at another ε. None if there is none or the file of
    evaluations is damaged: a damaged run must not hide the others of a list.
    """
    try:
        return run.evaluation() or next(
            (each for each in run.evaluations()[::-1] if each.printed == "PGD-20"), None
        )
    except UserError:
        return None
