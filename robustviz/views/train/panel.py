"""The parts of the Train page: the form, the estimate, the live view of a job, the list of jobs."""

from __future__ import annotations

import dataclasses
import io
import itertools
import threading
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import altair as alt
import numpy as np
import pandas as pd
import streamlit as st

from robustviz import figures, registry
from robustviz.runs import folder as runs, queue as jobs
from robustviz.runs.folder import Run
from robustviz.stats import wilson
from robustviz.terms import term
from robustviz.training.config import WHERE, TrainConfig
from robustviz.training.evaluation import Evaluation
from robustviz.training.presets import LESSONS, PRESETS, PUBLISHED
from robustviz.types import UserError, eps_text, parse_number
from robustviz.ui import cache
from robustviz.ui.context import (
    GROUPS,
    OWN,
    data_name,
    group,
    method_option,
    methods,
    option as run_option,
    ordered,
    trained,
)

WIDE = ("source", "witness")  # settings that name a run, which takes room
WRONG = "?"  # among a form's changes: a field that holds no valid value
# How many threads torch uses is the whole process's business, and two that are timed at once would
# time each other.
_ONE_AT_A_TIME = threading.Lock()
HUES = alt.Scale(
    range=["#2A8C6C", "#B45C9A", "#8A7A1F"]
)  # not blue and orange, which mean networks A and B; 3:1 on both themes


def form() -> TrainConfig | None:
    """The form, and what it says as a config; None, with a sentence in its place, where that is no
    valid training.
    """
    left, right = st.columns(2, gap="large")
    with left:
        recipe, data, method = _choice()
    with right:
        _explain(recipe, method)
    with left:
        folder = (
            st.text_input("Folder with one subfolder of images a class", key="train-folder")
            if data == "folder"
            else ""
        )
        if data == "folder" and not folder:
            st.info("Type the path of a folder on the computer that runs robustviz.")
            return None
        preset, chosen = (
            recipe if recipe in PRESETS else None,
            {"data": f"folder:{folder}" if folder else data, "method": method},
        )
        try:
            start = TrainConfig.make(preset, chosen)
        except UserError as error:
            st.error(str(error))
            return None
        scope = f"{recipe}-{data}-{method}"
        main = [field for field in dataclasses.fields(start.method) if _first(start, field)]
        changes = _fields(start, start.method, main, scope, "method.", across=2)
    with st.expander("More settings", icon=":material/settings:"):
        of_data = _fields(
            start,
            start.data,
            [f for f in dataclasses.fields(start.data) if f.name != "path"],
            scope,
            "data.",
        )
        changes |= of_data
        try:  # other defaults follow from these, e.g. the batch from the images' size
            start = TrainConfig.make(
                preset, chosen, [] if WRONG in of_data else list(of_data.items())
            )
        except UserError as error:
            st.error(str(error))
            return None
        of_run = [
            field for field in dataclasses.fields(start) if field.name not in ("data", "method")
        ]
        changes |= _fields(start, start, of_run, "-".join([scope, *map(str, of_data.values())]), "")
        changes |= _fields(
            start,
            start.method,
            [f for f in dataclasses.fields(start.method) if f not in main],
            scope,
            "method.",
        )
    if changes.pop(WRONG, False):
        st.error("A setting above is no valid value; look under More settings too.")
        return None
    try:
        config = start
        for path, value in changes.items():
            config = registry.with_value(config, path, value)
    except UserError as error:
        st.error(str(error))
        return None
    return config


def _choice() -> tuple[str, str, str]:
    """The pickers of the recipe, the data set and the method."""
    recipe = st.selectbox(
        "Recipe",
        [OWN, *PRESETS],
        1,
        key="train-recipe",
        on_change=_follow_recipe,
        format_func=_recipe_option,
        help="A named set of settings to start from, the same as `--preset` on the command line.",
    )
    preset = PRESETS[recipe].settings if recipe in PRESETS else {}
    data_keys, keys = list(registry.keys("data")), methods()
    data = st.selectbox(
        "Data",
        data_keys,
        _at(data_keys, preset.get("data", "shapes")),
        key="train-data",
        format_func=data_label,
        help=term("shapes"),
        on_change=_leave_recipe,
    )
    method = st.selectbox(
        "Method",
        keys,
        _at(keys, preset.get("method", "pgd_at")),
        key="train-method",
        format_func=method_option,
        help=term("groups"),
        on_change=_leave_recipe,
    )
    return str(recipe), str(data), str(method)


def _recipe_option(name: str) -> str:
    """A recipe's name in the picker: what kind it is, then its name."""
    return (
        f"Lesson · {name}"
        if name in LESSONS
        else f"Published, for a GPU · {name}"
        if name in PUBLISHED
        else name
    )


def _explain(recipe: str, method: str) -> None:
    """What the recipe is, and the method in two lines: what it does, whose it is, where we had to
    choose, what not to misread.
    """
    if recipe in PRESETS:
        st.markdown(f"**{recipe}.** {PRESETS[recipe].text}")
    cls = registry.get("method", method)
    st.markdown(
        f"**{cls.label}.** {cls.text}  \n*{cls.paper}.*"
        + (f"  \n**Where we had to choose:** {cls.choices}" if cls.choices else "")
    )
    name, caution = GROUPS[group(method)]
    if caution:
        st.warning(
            f"**{name}.** {caution}",
            icon=(
                ":material/swords:" if group(method) == "red team" else ":material/shield_question:"
            ),
        )


def _first(start: TrainConfig, field: dataclasses.Field[Any]) -> bool:
    """Whether a setting of the method stands at the top of the form: neither an advanced one nor
    those of its attack.
    """
    return not field.metadata.get("advanced") and not dataclasses.is_dataclass(
        getattr(start.method, field.name)
    )


def _follow_recipe() -> None:
    """The recipe changed: show its data set and method."""
    preset = (
        PRESETS[st.session_state["train-recipe"]].settings
        if st.session_state["train-recipe"] in PRESETS
        else {}
    )
    for name in ("data", "method"):
        if name in preset:
            st.session_state[f"train-{name}"] = preset[name]


def _leave_recipe() -> None:
    """Data or method changed: what is shown is the recipe no more, and must not keep its other
    settings.
    """
    st.session_state["train-recipe"] = OWN


def _at(options: list[str], wanted: Any) -> int:
    """The position to start from; the first where what is wanted is not there."""
    return options.index(str(wanted)) if wanted in options else 0


@st.cache_data
def data_label(key: str) -> str:
    """The printed name of a data source."""
    return str(registry.get("data", key).label)


def _fields(
    start: TrainConfig, thing: Any, fields: Any, scope: str, prefix: str, across: int = 3
) -> dict[str, Any]:
    """One input for each field of a dataclass inside `start`, so many a row; only what was changed,
    by dotted path.
    """
    changes: dict[str, Any] = {}
    plain = [field for field in fields if not dataclasses.is_dataclass(getattr(thing, field.name))]
    plain.sort(
        key=lambda field: field.name not in WIDE
    )  # each of these has a row of its own, above the others
    whole = sum(field.name in WIDE for field in plain)
    places = [st.container() for _ in range(whole)] + (
        st.columns(across) if len(plain) > whole else []
    )
    for at, field in enumerate(plain):
        value = getattr(thing, field.name)
        with places[at if at < whole else whole + (at - whole) % across]:
            try:
                new = _input(
                    start, thing, field, f"train-{scope}-{prefix}", prefix.removeprefix("method.")
                )
            except UserError as error:
                st.error(str(error))
                changes[WRONG], new = True, value
        if new != value:
            changes[prefix + field.name] = new
    for field in fields:
        if field not in plain:
            inner = getattr(thing, field.name)
            changes |= _fields(
                start, inner, dataclasses.fields(inner), scope, f"{prefix}{field.name}.", across
            )
    return changes


def _input(
    start: TrainConfig, thing: Any, field: dataclasses.Field[Any], scope: str, prefix: str
) -> Any:
    """The widget that fits a field of `thing`; the value it holds. Raises UserError for text where
    a number belongs.
    """
    hint, value = registry.hints(type(thing))[field.name], getattr(thing, field.name)
    inner = [arg for arg in typing.get_args(hint) if arg is not type(None)]
    optional = type(None) in typing.get_args(hint)
    hint = inner[0] if optional else hint
    low, high = field.metadata.get("low"), field.metadata.get("high")
    title = f"{prefix}{field.name}".replace("_", " ")
    common: dict[str, Any] = {"key": scope + field.name, "help": field.metadata.get("help")}
    if field.name in WIDE:
        here = _networks(start, field.name, scope)
        options = list(dict.fromkeys([None, *here, value]))
        return st.selectbox(
            title,
            options,
            options.index(value),
            **common,
            format_func=lambda name: (
                run_option(here[name]) if name in here else name or _if_empty(field)
            ),
        )
    if field.name == "rule":
        from robustviz.cam import RULES

        rules = list(
            dict.fromkeys([*RULES, *(["oracle"] if start.data.key == "shapes" else []), value])
        )
        return st.selectbox(title, rules, rules.index(value), accept_new_options=True, **common)
    if typing.get_origin(hint) is Literal or field.name in ("net", "augment"):
        from robustviz.data import AUGMENTATIONS

        known = {"net": registry.keys("net"), "augment": AUGMENTATIONS}
        options = list(known.get(field.name) or typing.get_args(hint))
        return st.selectbox(title, options, options.index(value), **common)
    if hint is bool:
        return st.checkbox(title, value, **common)
    if hint is int and value is not None:
        ends: Any = [int(end) if end is not None else None for end in (low, high)]
        return int(st.number_input(title, *ends, value=int(value), **common))
    shown = "" if value is None else value if hint is str else _number_text(field.name, value)
    text = st.text_input(
        title, shown, placeholder=_if_empty(field) if optional else None, **common
    ).strip()
    if text == "":
        return None if optional else value
    if hint is str:
        return text
    number = parse_number(text)
    return (
        value if value is not None and abs(number - value) < 1e-6 * max(1.0, abs(value)) else number
    )


def _if_empty(field: dataclasses.Field[Any]) -> str:
    """What an optional setting means where nothing is given: what its help says after "empty:"."""
    return str(field.metadata.get("help", "")).partition("empty: ")[2].rstrip(".")


def _number_text(name: str, value: float) -> str:
    """A number as a person would type it: a radius in grey levels where it is a whole number of
    them.
    """
    radius = name in ("eps", "eps_low", "step_size") and "(" not in eps_text(value)
    return eps_text(value) if radius else f"{value:g}"


def _networks(start: TrainConfig, role: str, scope: str) -> dict[str, Run]:
    """The runs that model alignment can start from or learn from: ordinary shipped ones and the
    user's, on this very data.

    A source keeps its architecture, so it must be of the network chosen.
    """
    net = st.session_state.get(f"{scope.removesuffix('method.')}net", start.net)
    return ordered(
        run
        for run in trained().values()
        if run.info["data"] == registry.encode(start.data)
        and (run.method_key == "standard" or not run.shipped)
        and (role == "witness" or run.architecture == net)
    )


def submit(config: TrainConfig) -> None:
    """The estimate and the button, or what does not fit. What is shipped already is trained with
    the next seed instead.
    """
    import os

    try:
        config = (
            config.on_this_machine()
        )  # so that its id is the run's: a method may name other runs
        cost = estimate(config)
    except UserError as error:
        st.error(str(error))
        return
    shipped = [run for run in runs.all_runs() if run.shipped]
    asked, there = config.seed, _same(config, shipped)
    while _same(config, shipped):
        config = registry.with_value(config, "seed", config.seed + 1)
    with st.container(horizontal=True, vertical_alignment="center"):
        if os.environ.get("ROBUSTVIZ_DEMO"):
            st.info("Training is switched off on this demo server.")
        elif st.button(
            f"Train with seed {config.seed}" if there else "Train",
            type="primary",
            icon=":material/play_arrow:",
            key="train-go",
        ):
            st.query_params["job"] = jobs.submit(config).id
        if there:
            st.markdown(
                f"With seed {asked} this is shipped with robustviz already: `{there}`. How much"
                f" does another seed differ?  \n{cost}"
            )
        else:
            st.markdown(cost)


def _same(config: TrainConfig, among: list[Run]) -> str:
    """The id of the run of this config, or of one that differs only in having kept snapshots too;
    empty where there is none.
    """
    asked = config.to_json()
    free = {name: asked[name] for name in WHERE} | ({} if config.snapshots else {"snapshots": 0})
    return next((run.id for run in among if {**run.info, **free}.items() >= asked.items()), "")


@st.cache_data(show_spinner="Timing three training steps …", max_entries=64)
def _seconds(settings: str) -> tuple[float, int]:
    """Seconds that a training will take with its evaluation, and how many steps an epoch has; from
    three steps and one small validation, timed here and now.
    """
    import json
    import time

    from robustviz import data
    from robustviz.attacks import PGD
    from robustviz.training.evaluate import DOCTOR_IMAGES, count_right
    from robustviz.training.loop import Training

    config = TrainConfig.from_json(json.loads(settings))
    with _one_training():
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
    step = min((b - a for a, b in itertools.pairwise(times)), default=0.0)
    batches = -(-len(training.y) // int(config.batch_size or 1))
    epoch = step * batches + image * len(training.val)
    # PGD-20, and the doctor's attacks: ten by PGD, and Square
    final = image * (2 * len(data.load(config.data, "test")) + 17 * DOCTOR_IMAGES)
    return epoch * int(config.epochs or 1) + final, batches


@st.cache_data(show_spinner="Checking the settings …", max_entries=64)
def _fits(settings: str) -> None:
    """Raises UserError where the training could not begin; what it raises is not kept."""
    import json

    from robustviz.training import loop as training

    with _one_training():
        training.check(TrainConfig.from_json(json.loads(settings)))


@contextmanager
def _one_training() -> Iterator[None]:
    """A training in this process: no other session's meanwhile, and afterwards torch has as many
    threads as before.
    """
    import torch

    with _ONE_AT_A_TIME:
        before = torch.get_num_threads()
        try:
            yield
        finally:
            torch.set_num_threads(before)


def estimate(config: TrainConfig) -> str:
    """How long the training will take, by timing three of its steps; the first time for each
    setting.

    Raises UserError where it could not begin, as far as that is known without a download: the job
    says the rest.
    """
    import json

    if config.data.key == "folder":
        from robustviz import data

        count = len(
            data.load(config.data, "train", config.n_train or None)
        )  # says at once what is wrong with a folder
        _fits(json.dumps(dataclasses.replace(config, device="cpu").to_json(), sort_keys=True))
        return f"{config.epochs} epochs of {count} images. The time left is shown once it runs."
    if config.data.key not in ("digits", "shapes"):
        return (
            f"{config.epochs} epochs. The time left is shown once it runs (this data is loaded, and"
            " if need be downloaded, by the job)."
        )
    seconds, batches = _seconds(json.dumps(config.to_json(), sort_keys=True))
    return (
        f"About **{_duration(seconds)}** here, evaluation included ({config.epochs} epochs of"
        f" {batches} steps; three of them were timed just now)."
    )


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )


def current() -> Run | None:
    """The job to watch: the one the address names, else the one running, else the last one, else
    none.
    """
    if wanted := st.query_params.get("job", ""):
        try:
            return cache.open_by_id(wanted)
        except UserError as error:
            st.warning(str(error))
    return next(iter(jobs.running()), next(iter(jobs.mine()[::-1]), None))


def watch() -> None:
    """The live view of the job in hand; it ticks each second while there is something to see, and
    then stops.
    """
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
    st.markdown(
        f"`{run.id}` · **{state}**"
        + (f" · place {_place(run)} in the queue" if state == "queued" else "")
    )
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
            f"Test split: {found.clean_k} of {found.n} right untouched, {found.robust_k} of"
            f" {found.n} under PGD-20 (95 % interval {low:.1%} to {high:.1%}) at ε ="
            f" {eps_text(found.eps)}, seed {found.seed}."
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
    return min(share, 1.0), text + (
        f", about {_duration(float(left))} left" if left is not None and float(left) > 3 else ""
    )


def _buttons(run: Run, state: str) -> None:
    def act(do: Any, *args: Any) -> None:
        try:
            do(*args)
        except UserError as error:
            st.session_state["job-error"] = str(error)

    with st.container(horizontal=True):
        if state in ("running", "queued"):
            asked = run.wanted()  # not heard yet: it is after the batch in hand
            for want, name, soon in (
                ("pause", "Pause", "Pausing …"),
                ("stop", "Stop", "Stopping …"),
            ):
                text = soon if asked == want else name
                st.button(
                    text,
                    key=want,
                    icon=f":material/{want}:",
                    disabled=bool(asked),
                    on_click=act,
                    args=(jobs.ask, run, want),
                )
        elif state in ("paused", "stopped", "interrupted", "failed"):
            st.button(
                "Resume",
                key="resume",
                icon=":material/play_arrow:",
                type="primary",
                on_click=act,
                args=(jobs.enqueue, run),
            )
        elif state == "done" and st.button(
            "Attack it", key="attack-it", icon=":material/bolt:", type="primary"
        ):
            st.session_state.update({"data": data_name(run), "b": run.id})
            st.switch_page(str(runs.REPOSITORY / "pages" / "attack.py"))
    if problem := st.session_state.pop("job-error", ""):
        st.error(problem)


def _curves(records: list[dict[str, Any]], run: Run) -> None:
    """Validation accuracies and loss terms against the epoch, as Vega charts that update without
    being drawn anew.
    """
    rows = pd.DataFrame(
        [{"epoch": r["epoch"], "clean": r["clean_acc"], "PGD-10": r["robust_acc"]} for r in records]
    ).melt("epoch", var_name="on", value_name="share")
    last = records[-1]
    accuracy = (
        alt.Chart(rows, title=f"Validation accuracy, n = {last['n_val']}, ε = {eps_text(run.eps)}")
        .mark_line(point=True, strokeWidth=3)
        .encode(
            x=alt.X("epoch:Q", axis=alt.Axis(tickMinStep=1)),
            y=alt.Y(
                "share:Q", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%"), title=None
            ),
            color=alt.Color("on:N", title=None, scale=HUES),
            strokeDash=alt.StrokeDash("on:N", title=None),
            tooltip=["epoch", "on", alt.Tooltip("share", format=".1%")],
        )
    )
    terms = pd.DataFrame(
        [
            {"epoch": r["epoch"], "term": name, "loss": value}
            for r in records
            for name, value in r["losses"].items()
        ]
    )
    loss = (
        alt.Chart(terms, title="Training loss, by term")
        .mark_line(point=True, strokeWidth=3)
        .encode(
            x=alt.X("epoch:Q", axis=alt.Axis(tickMinStep=1)),
            y=alt.Y("loss:Q", title=None),
            color=alt.Color("term:N", title=None, scale=HUES),
            strokeDash=alt.StrokeDash("term:N", title=None),
            tooltip=["epoch", "term", alt.Tooltip("loss", format=".3f")],
        )
    )
    left, right = st.columns(2)
    said = (
        f"Epoch {last['epoch']}: clean {last['clean_acc']:.1%}, PGD-10 {last['robust_acc']:.1%} of"
        f" {last['n_val']} validation images, {last['seconds']:.1f} s an epoch."
    )
    left.altair_chart(accuracy, alt=f"Validation accuracy over the epochs. {said}")
    right.altair_chart(
        loss,
        alt="Training loss terms over the epochs: "
        + ", ".join(f"{k} {v:.3f}" for k, v in last["losses"].items()),
    )
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
        ", ".join(
            f"{names[a]}→{names[b]}" if a != b else names[a]
            for a, b in zip(live["pred"], live["pred_adv"], strict=True)
        )
        if names
        else ""
    )
    st.image(
        picture,
        width="stretch",
        alt=f"Eight validation images, clean above and attacked below. The net says: {said}",
    )
    st.markdown(
        f"After epoch {int(live['epoch'])}, {held} of {count} hold under PGD-10 at ε ="
        f" {eps_text(float(live['eps']))}. It says: {said}."
    )


def _evaluation(run: Run) -> Evaluation | None:
    """The plain evaluation, or none where the file is damaged: one bad run must not hide the
    others.
    """
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
        rows.append(
            {
                "run": run.id,
                "state": status.get("state"),
                "epochs": f"{len(run.records())} of {run.info.get('epochs')}",
                "clean": found.clean_acc if found else None,
                "PGD-20": found.robust_acc if found else None,
                "ε": eps_text(found.eps) if found else "",
                "n": found.n if found else None,
            }
        )
    percent = st.column_config.NumberColumn(format="percent")
    picked = st.dataframe(
        pd.DataFrame(rows),
        hide_index=True,
        key="jobs",
        on_select="rerun",
        selection_mode="single-row",
        column_config={"clean": percent, "PGD-20": percent},
        alt=f"{len(rows)} runs with state and accuracies",
    )
    chosen = picked["selection"]["rows"]
    if chosen and chosen != st.session_state.get(
        "job-row"
    ):  # once per choice, so that a new training can be watched after it
        st.session_state["job-row"] = chosen
        st.query_params["job"] = mine[chosen[0]].id
        st.rerun()
