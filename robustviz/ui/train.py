"""The parts of the Train page: the form, the estimate, the live view of a job, the list of jobs."""

from __future__ import annotations

import dataclasses
import io
import itertools
import typing
from typing import Any, Literal

import altair as alt
import numpy as np
import pandas as pd
import streamlit as st

from robustviz import figures, jobs, registry, runs
from robustviz.config import TrainConfig
from robustviz.presets import PRESETS
from robustviz.results import Evaluation, wilson
from robustviz.runs import Run
from robustviz.terms import term
from robustviz.types import UserError, eps_text, parse_number
from robustviz.ui import cache
from robustviz.ui.context import OWN, data_name

LESSONS = [name for name, preset in PRESETS.items() if not name.startswith("cifar10")]
WRONG = "?"  # among a form's changes: a field that holds no valid value
HUES = alt.Scale(range=["#2A8C6C", "#B45C9A", "#8A7A1F"])  # not blue and orange, which mean networks A and B; 3:1 on both themes
SHOWN = (
    "eps",
    "epochs",
    "n_train",
    "seed",
    "net",
    "batch_size",
    "lr",
    "schedule",
    "augment",
    "ema",
    "precision",
    "device",
    "threads",
    "snapshots",
)


def form() -> TrainConfig | None:
    """The form, and what it says as a config; None, with a sentence in its place, where that is no valid training."""
    data_keys, methods = list(registry.keys("data")), list(registry.keys("method"))
    left, right = st.columns(2)
    with left:
        recipe = st.selectbox("Recipe", [*LESSONS, OWN], key="train-recipe", on_change=_follow_recipe, help="A named set of settings to start from.",
                              format_func=lambda name: PRESETS[name].text if name in PRESETS else name)  # fmt: skip
        preset = PRESETS[recipe].settings if recipe in PRESETS else {}
        data = st.selectbox("Data", data_keys, _at(data_keys, preset.get("data", "shapes")), key="train-data", format_func=data_label, help=term("shapes"),
                            on_change=_leave_recipe)  # fmt: skip
        method = st.selectbox("Method", methods, _at(methods, preset.get("method", "pgd_at")), key="train-method", help=term("adversarial training"), on_change=_leave_recipe,
                              format_func=lambda key: registry.get("method", key).label)  # fmt: skip
    with right:
        cls = registry.get("method", str(method))
        st.markdown(f"{cls.text}  \n*{cls.paper}.* {cls.choices}")
    folder = st.text_input("Folder with one subfolder of images a class", key="train-folder") if data == "folder" else ""
    if data == "folder" and not folder:
        st.info("Type the path of a folder on the computer that runs robustviz.")
        return None
    with st.expander("More settings", icon=":material/settings:"):
        try:
            start = TrainConfig.make(recipe if preset else None, {"data": f"folder:{folder}" if folder else data, "method": method})
        except UserError as error:
            st.error(str(error))
            return None
        scope = f"{recipe}-{data}-{method}"
        changes = _fields(start, [field for field in dataclasses.fields(start) if field.name in SHOWN], scope, "")
        changes |= _fields(start.data, [f for f in dataclasses.fields(start.data) if f.name not in ("path",)], scope, "data.")
        changes |= _fields(start.method, dataclasses.fields(start.method), scope, "method.")
    if changes.pop(WRONG, False):
        st.error("A setting above is no valid value; see under More settings.")
        return None
    try:
        config = start
        for path, value in changes.items():
            config = registry.with_value(config, path, value)
    except UserError as error:
        st.error(str(error))
        return None
    return config


def _follow_recipe() -> None:
    """The recipe changed: show its data set and method."""
    preset = PRESETS[st.session_state["train-recipe"]].settings if st.session_state["train-recipe"] in PRESETS else {}
    for name in ("data", "method"):
        if name in preset:
            st.session_state[f"train-{name}"] = preset[name]


def _leave_recipe() -> None:
    """Data or method changed: what is shown is the recipe no more, and must not keep its other settings."""
    st.session_state["train-recipe"] = OWN


def _at(options: list[str], wanted: Any) -> int:
    """The position to start from; the first where what is wanted is not there."""
    return options.index(str(wanted)) if wanted in options else 0


@st.cache_data
def data_label(key: str) -> str:
    """The printed name of a data source."""
    return str(registry.get("data", key).label)


def _fields(thing: Any, fields: Any, scope: str, prefix: str) -> dict[str, Any]:
    """One input for each field of a dataclass, three a row; only what was changed, by dotted path."""
    changes: dict[str, Any] = {}
    columns = st.columns(3)
    at = 0
    for field in fields:
        value = getattr(thing, field.name)
        if dataclasses.is_dataclass(value):
            changes |= _fields(value, dataclasses.fields(value), scope, f"{prefix}{field.name}.")
            continue
        with columns[at % 3]:
            try:
                new = _input(thing, field, value, f"train-{scope}-{prefix}{field.name}", f"{prefix.removeprefix('method.')}{field.name}")
            except UserError as error:
                st.error(str(error))
                changes[WRONG], new = True, value
        at += 1
        if new != value:
            changes[prefix + field.name] = new
    return changes


def _input(thing: Any, field: dataclasses.Field[Any], value: Any, key: str, name: str) -> Any:
    """The widget that fits a field's type; the value it holds."""
    hint = registry.hints(type(thing))[field.name]
    inner = [arg for arg in typing.get_args(hint) if arg is not type(None)]
    optional = type(None) in typing.get_args(hint)
    hint = inner[0] if optional else hint
    help, low, high = field.metadata.get("help"), field.metadata.get("low"), field.metadata.get("high")
    title = name.replace("_", " ")
    if field.name == "net":
        return st.selectbox(title, registry.keys("net"), registry.keys("net").index(value), key=key, help=help)
    if field.name == "augment":
        from robustviz.data import AUGMENTATIONS

        return st.selectbox(title, AUGMENTATIONS, list(AUGMENTATIONS).index(value), key=key, help=help)
    if typing.get_origin(hint) is Literal:
        options = list(typing.get_args(hint))
        return st.selectbox(title, options, options.index(value), key=key, help=help)
    if hint is bool:
        return st.checkbox(title, value, key=key, help=help)
    if hint is int and value is not None:
        return int(
            st.number_input(
                title, int(low) if low is not None else None, int(high) if high is not None else None, int(value), key=key, help=help
            )
        )
    text = st.text_input(
        title,
        "" if value is None else eps_text(value) if field.name == "eps" and "(" not in eps_text(value) else f"{value:g}",
        key=key,
        help=help,
    )
    if text.strip() == "":
        return None if optional else value
    number = parse_number(text)
    return value if value is not None and abs(number - value) < 1e-6 * max(1.0, abs(value)) else number


def submit(config: TrainConfig) -> None:
    """The estimate and the button. A known config opens its run instead of training it twice."""
    import os

    try:
        cost = estimate(config)
    except UserError as error:
        st.error(str(error))
        return
    known = next((run for run in runs.all_runs() if run.id == config.run_id), None)
    with st.container(horizontal=True, vertical_alignment="center"):
        if os.environ.get("ROBUSTVIZ_DEMO"):
            st.info("Training is switched off on this demo server.")
        elif st.button("Train", type="primary", icon=":material/play_arrow:", key="train-go", disabled=bool(known and known.shipped)):
            st.query_params["job"] = jobs.submit(config.on_this_machine()).id
        if known is not None and known.shipped:
            st.markdown(f"This one is shipped with robustviz already: `{known.id}`. Change a setting, or look at it on the Attack page.")
        else:
            st.markdown(cost)


@st.cache_data(show_spinner="Timing three training steps …", max_entries=64)
def _seconds(settings: str) -> tuple[float, int]:
    """Seconds that a training will take with its evaluation, and how many steps an epoch has; from three steps and one
    small validation, timed here and now.
    """
    import json
    import time

    import torch

    from robustviz import data
    from robustviz.attacks import PGD
    from robustviz.evaluate import DOCTOR_IMAGES, count_right
    from robustviz.training import Training

    config = TrainConfig.from_json(json.loads(settings))
    before = torch.get_num_threads()
    try:
        training = Training(config)
        times = []

        def stop_soon(tick: Any) -> Any:
            times.append(time.perf_counter())
            return "stop" if len(times) > 3 else "go"

        list(training.epochs(stop_soon))
        few = training.val.take(min(64, len(training.val)))
        x, y = few.x.to(training.device), few.y.to(training.device)
        started = time.perf_counter()
        count_right(training.net, x, y, PGD(eps=config.eps, steps=10))
        image = (time.perf_counter() - started) / len(few)  # one validation image under PGD-10
    finally:
        torch.set_num_threads(before)
    step = min((b - a for a, b in itertools.pairwise(times)), default=0.0)
    batches = -(-len(training.y) // int(config.batch_size or 1))
    epoch = step * batches + image * len(training.val)
    final = image * (2 * len(data.load(config.data, "test")) + 12 * DOCTOR_IMAGES)  # PGD-20, and the doctor's attacks
    return epoch * int(config.epochs or 1) + final, batches


def estimate(config: TrainConfig) -> str:
    """How long the training will take, by timing three of its steps; the first time for each setting."""
    import json

    if config.data.key == "folder":
        from robustviz import data

        count = len(data.load(config.data, "train", config.n_train or None))  # says at once what is wrong with a folder
        return f"{config.epochs} epochs of {count} images. The time left is shown once it runs."
    if config.data.key not in ("digits", "shapes"):
        return f"{config.epochs} epochs. The time left is shown once it runs (this data is loaded, and if need be downloaded, by the job)."
    seconds, batches = _seconds(json.dumps(config.to_json(), sort_keys=True))
    return f"About **{_duration(seconds)}** here, evaluation included ({config.epochs} epochs of {batches} steps; three of them were timed just now)."


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def current() -> Run | None:
    """The job to watch: the one the address names, else the one running, else the last one, else none."""
    if wanted := st.query_params.get("job", ""):
        try:
            return cache.open_by_id(wanted)
        except UserError as error:
            st.warning(str(error))
    return next(iter(jobs.running()), next(iter(jobs.mine()[::-1]), None))


def watch() -> None:
    """The live view of the job in hand; it ticks each second while there is something to see, and then stops."""
    jobs.pump()
    run = current()
    if run is None:
        return
    st.header("This training", divider="gray")
    live = run.status().get("state") in ("queued", "running")
    st.fragment(_panel, run_every=1.0 if live else None)(run.id, live)


def _panel(run_id: str, was_live: bool) -> None:
    run = cache.open_by_id(run_id)
    status, records = run.status(), run.records()
    state = status.get("state")
    if was_live != (state in ("queued", "running")):
        st.rerun()  # a full run, which starts or stops the ticking
    if state == "queued":
        jobs.pump()
    st.markdown(f"`{run.id}` · **{state}**" + (f" · place {_place(run)} in the queue" if state == "queued" else ""))
    if state == "running":
        st.progress(*_progress(run, status))
    if status.get("error"):
        st.error(str(status["error"]))
    if status.get("note"):
        st.info(str(status["note"]))
    _buttons(run, str(state))
    if records:
        _curves(records, run)
    if (run.path / "live.npz").exists():
        _strip(run)
    found = _evaluation(run)
    if found is not None:
        low, high = wilson(found.robust_k, found.n)
        st.success(
            f"Test split: {found.clean_k} of {found.n} right untouched, {found.robust_k} of {found.n} under PGD-20 "
            f"(95 % interval {low:.1%} to {high:.1%}) at ε = {eps_text(found.eps)}, seed {found.seed}."
        )


def _place(run: Run) -> int:
    queue = [other.id for other in jobs.waiting()]
    return queue.index(run.id) + 1 if run.id in queue else 1


def _progress(run: Run, status: dict[str, Any]) -> tuple[float, str]:
    epochs, batches = int(status.get("epochs") or 1), int(status.get("batches") or 0)
    if not batches:
        return (
            (1.0, "Evaluating on the test split …")
            if status.get("phase") == "evaluate"
            else (0.0, "Starting: loading torch and the images …")
        )
    share = (int(status["epoch"]) + int(status["batch"]) / batches) / epochs
    left = status.get("eta")
    text = f"Epoch {int(status['epoch']) + 1} of {epochs}, batch {status['batch']} of {batches}"
    return min(share, 1.0), text + (f", about {_duration(float(left))} left" if left is not None and float(left) > 3 else "")


def _buttons(run: Run, state: str) -> None:
    def act(do: Any, *args: Any) -> None:
        try:
            do(*args)
        except UserError as error:
            st.session_state["job-error"] = str(error)

    with st.container(horizontal=True):
        if state in ("running", "queued"):
            asked = run.wanted()  # not heard yet: it is after the batch in hand
            for want, name, soon in (("pause", "Pause", "Pausing …"), ("stop", "Stop", "Stopping …")):
                text = soon if asked == want else name
                st.button(text, key=want, icon=f":material/{want}:", disabled=bool(asked), on_click=act, args=(jobs.ask, run, want))
        elif state in ("paused", "stopped", "interrupted", "failed"):
            st.button("Resume", key="resume", icon=":material/play_arrow:", type="primary", on_click=act, args=(jobs.enqueue, run))
        elif state == "done" and st.button("Attack it", key="attack-it", icon=":material/bolt:", type="primary"):
            st.session_state.update({"data": data_name(run), "b": run.id})
            st.switch_page(str(runs.REPOSITORY / "pages" / "attack.py"))
    if problem := st.session_state.pop("job-error", ""):
        st.error(problem)


def _curves(records: list[dict[str, Any]], run: Run) -> None:
    """Validation accuracies and loss terms against the epoch, as Vega charts that update without being drawn anew."""
    rows = pd.DataFrame([{"epoch": r["epoch"], "clean": r["clean_acc"], "PGD-10": r["robust_acc"]} for r in records]).melt(
        "epoch", var_name="on", value_name="share"
    )
    last = records[-1]
    accuracy = (
        alt.Chart(rows, title=f"Validation accuracy, n = {last['n_val']}, ε = {eps_text(run.eps)}").mark_line(point=True, strokeWidth=3)
        .encode(x=alt.X("epoch:Q", axis=alt.Axis(tickMinStep=1)), y=alt.Y("share:Q", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%"), title=None),
                color=alt.Color("on:N", title=None, scale=HUES), strokeDash=alt.StrokeDash("on:N", title=None), tooltip=["epoch", "on", alt.Tooltip("share", format=".1%")])
    )  # fmt: skip
    terms = pd.DataFrame([{"epoch": r["epoch"], "term": name, "loss": value} for r in records for name, value in r["losses"].items()])
    loss = (
        alt.Chart(terms, title="Training loss, by term").mark_line(point=True, strokeWidth=3)
        .encode(x=alt.X("epoch:Q", axis=alt.Axis(tickMinStep=1)), y=alt.Y("loss:Q", title=None), color=alt.Color("term:N", title=None, scale=HUES),
                strokeDash=alt.StrokeDash("term:N", title=None), tooltip=["epoch", "term", alt.Tooltip("loss", format=".3f")])
    )  # fmt: skip
    left, right = st.columns(2)
    said = f"Epoch {last['epoch']}: clean {last['clean_acc']:.1%}, PGD-10 {last['robust_acc']:.1%} of {last['n_val']} validation images, {last['seconds']:.1f} s an epoch."
    left.altair_chart(accuracy, alt=f"Validation accuracy over the epochs. {said}")
    right.altair_chart(loss, alt="Training loss terms over the epochs: " + ", ".join(f"{k} {v:.3f}" for k, v in last["losses"].items()))
    st.markdown(said)


def _strip(run: Run) -> None:
    """Eight validation images as the net sees them now: clean above, attacked below."""
    try:
        with np.load(io.BytesIO((run.path / "live.npz").read_bytes()), allow_pickle=False) as file:
            live = {name: file[name] for name in file.files}
    except (OSError, ValueError):
        return
    names = run.info.get("images", {}).get("names", [])
    count = len(live["y"])
    held = int((live["pred_adv"] == live["y"]).sum())
    picture = figures.sheet([*live["x"], *live["x_adv"]], 96, columns=count)
    said = (
        ", ".join(f"{names[a]}→{names[b]}" if a != b else names[a] for a, b in zip(live["pred"], live["pred_adv"], strict=True))
        if names
        else ""
    )
    st.image(picture, width="stretch", alt=f"Eight validation images, clean above and attacked below. The net says: {said}")
    st.markdown(
        f"After epoch {int(live['epoch'])}, {held} of {count} hold under PGD-10 at ε = {eps_text(float(live['eps']))}. It says: {said}."
    )


def _evaluation(run: Run) -> Evaluation | None:
    """The plain evaluation, or none where the file is damaged: one bad run must not hide the others."""
    try:
        return run.evaluation()
    except UserError:
        return None


def job_list() -> None:
    """Every run of the user's, newest first; choosing one shows it above."""
    mine = jobs.mine()[::-1]
    if not mine:
        return
    st.header("Your runs", divider="gray")
    rows = []
    for run in mine:
        status, found = run.status(), _evaluation(run)
        rows.append({
            "run": run.id, "state": status.get("state"), "epochs": f"{len(run.records())} of {run.info.get('epochs')}",
            "clean": found.clean_acc if found else None, "PGD-20": found.robust_acc if found else None,
            "ε": eps_text(found.eps) if found else "", "n": found.n if found else None,
        })  # fmt: skip
    percent = st.column_config.NumberColumn(format="percent")
    picked = st.dataframe(
        pd.DataFrame(rows), hide_index=True, key="jobs", on_select="rerun", selection_mode="single-row",
        column_config={"clean": percent, "PGD-20": percent}, alt=f"{len(rows)} runs with state and accuracies",
    )  # fmt: skip
    chosen = picked["selection"]["rows"]
    if chosen and chosen != st.session_state.get("job-row"):  # once per choice, so that a new training can be watched after it
        st.session_state["job-row"] = chosen
        st.query_params["job"] = mine[chosen[0]].id
        st.rerun()
