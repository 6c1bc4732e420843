"""The form of the Train page: an input for every setting of the training, the chosen data set and
the chosen method, and the config made from the inputs. The form is generated from their classes, so
that a new setting, data set or method appears in it without a change here.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import streamlit as st

from robustviz import data as datasets, paths, registry, terms
from robustviz.runs import folder, queue
from robustviz.training.config import WHERE, TrainConfig
from robustviz.training.presets import LESSONS, PRESETS, PUBLISHED
from robustviz.types import UserError, eps_text, parse_number
from robustviz.ui import rights, shell
from robustviz.ui.context import OWN
from robustviz.ui.methods import about
from robustviz.ui.networks import (
    FIRST,
    group,
    method_option,
    methods,
    option as run_option,
    ordered,
    trained,
)
from robustviz.views.train.estimate import estimate, fits
from robustviz.views.train.live import show

WRONG = "?"  # key in a form's changes that marks an invalid field


def form() -> TrainConfig | None:
    """Draw the form and return its config.
    If a setting is invalid or missing, the reason is shown as well and None is returned. If this
    session may not train, there is no form, only a sentence, and None is returned.
    """
    if not rights.may_act():
        st.info(f"{rights.sentence('train')} Trainings are shown here while they run.")
        return None
    try:
        return _asked()
    except UserError as error:
        st.error(shell.spoken(error))
        return None


def _asked() -> TrainConfig | None:
    recipe, data, method = _choice()
    named = data in datasets.own.every()
    kind = type(datasets.source(data)) if named else registry.get("data", data)
    dials = registry.options(kind)
    own = [option.help for option in dials.values() if option.kind == "folder" and not named]
    place = st.text_input(own[0], key="train-folder").strip() if own else ""
    if own and not place:
        st.info("Type the path of a folder on the computer that runs robustviz.")
        return None
    if own:
        _check_typed(place)
    preset = recipe if recipe in PRESETS else None
    chosen = {"data": f"{data}:{place}" if place else data, "method": method}
    start = TrainConfig.make(preset, chosen)
    scope = f"{recipe}-{data}-{method}"
    settings = registry.options(type(start.method))
    main = [
        name
        for name, option in settings.items()
        if not option.advanced and not dataclasses.is_dataclass(getattr(start.method, name))
    ]
    changes = _fields(start, start.method, main, scope, "method.", across=2)
    with st.expander("More settings", icon=":material/settings:"):
        of_data = _fields(
            start,
            start.data,
            [name for name, option in dials.items() if option.kind not in ("folder", "name")],
            scope,
            "data.",
            across=2,
        )
        # other defaults depend on these, e.g. the batch size on the size of the images
        start = TrainConfig.make(preset, chosen, [] if WRONG in of_data else list(of_data.items()))
        of_run = [name for name in registry.options(TrainConfig) if name not in chosen]
        rest = [name for name in settings if name not in main]
        under = "-".join([scope, *map(str, of_data.values())])
        changes |= of_data | _fields(start, start, of_run, under, "", across=2)
        changes |= _fields(start, start.method, rest, scope, "method.", across=2)
    if changes.pop(WRONG, False):
        raise UserError("A setting above is invalid: correct it; look under More settings too.")
    for path, value in changes.items():
        start = registry.with_value(start, path, value)
    return start


def _check_typed(place: str) -> None:
    """Raises UserError for a path that this session may not read, or if it may not name folders.
    Allowed are paths in the folders that the server's operator has named (`paths.roots`). If there
    are none, allowed are paths in the folder of data sets and, except in the mode `lab`, in the
    home folder.
    """
    rights.check("name folders")
    # in the mode `lab` the home folder is not the user's
    own = () if rights.mode() == "lab" else (Path.home(),)
    try:
        paths.check_open(
            Path(place).expanduser(), paths.roots() or (*own, datasets.root().resolve())
        )
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError("This is not the path of a folder.") from error


def _choice() -> tuple[str, str, str]:
    """Draw the pickers of recipe, data set and method, with explanations of what is chosen.
    Returns the three chosen keys, in this order.
    """
    left, right = st.columns(2)
    recipe = left.selectbox(
        "Recipe",
        [OWN, *PRESETS],
        1,
        key="train-recipe",
        on_change=_follow_recipe,
        format_func=_recipe_option,
        help="A named set of settings to start from, the same as `--preset` on the command line.",
    )
    preset = PRESETS[recipe].settings if recipe in PRESETS else {}
    data_keys, keys = [*registry.keys("data"), *datasets.own.every()], methods()
    if st.session_state.get("train-data", data_keys[0]) not in data_keys:  # it has been removed
        del st.session_state["train-data"]
    data = right.selectbox(
        "Data",
        data_keys,
        data_keys.index(preset.get("data", FIRST["data"])),
        key="train-data",
        format_func=_data_option,
        help=terms.term("shapes"),
        on_change=_leave_recipe,
    )
    method = st.selectbox(
        "Method",
        keys,
        keys.index(preset.get("method", FIRST["b"])),
        key="train-method",
        format_func=method_option,
        help=terms.term("groups"),
        on_change=_leave_recipe,
    )
    with about(str(method), "train"):
        _explain(str(recipe), str(method))
    if (own := group(str(method))).caution:
        st.warning(f"**{own.name}.** {own.caution}", icon=own.icon)
    return str(recipe), str(data), str(method)


def _data_option(name: str) -> str:
    """A data set's label in the picker; the user's own ones have the name that they were given."""
    return registry.get("data", name).label if name in registry.keys("data") else f"Yours · {name}"


def _recipe_option(name: str) -> str:
    """A recipe's label in the picker: its kind and its name."""
    lesson = f"Lesson · {name}" if name in LESSONS else name
    return f"Published, for a GPU · {name}" if name in PUBLISHED else lesson


def _explain(recipe: str, method: str) -> None:
    """Draw the method's description, its paper, our own choices in it, and the recipe's text."""
    cls = registry.get("method", method)
    st.markdown(
        f"{cls.text}  \n*{cls.paper.removesuffix('.')}.*"
        + (f"  \n**Our choices:** {cls.choices}" if cls.choices else "")
    )
    if recipe in PRESETS:
        st.markdown(f"**Recipe {recipe}.** {PRESETS[recipe].text}")


def _follow_recipe() -> None:
    """Callback: the recipe changed, so select its data set and method."""
    if recipe := PRESETS.get(st.session_state["train-recipe"]):
        for name in ("data", "method"):
            st.session_state[f"train-{name}"] = recipe.settings[name]


def _leave_recipe() -> None:
    """Callback: data set or method changed, so no recipe is selected any more."""
    st.session_state["train-recipe"] = OWN


def _fields(
    start: TrainConfig, owner: Any, names: Iterable[str], scope: str, prefix: str, across: int = 3
) -> dict[str, Any]:
    """Draw an input for each of the fields `names` of `owner`, a dataclass inside `start`.
    Returns the values that differ from `start`, by dotted path, and the entry `WRONG` if one is
    invalid. `prefix`: the start of these paths; `scope`: the start of the widgets' keys. There are
    `across` inputs per row; pickers of runs, whose labels are long, have a row each, above the
    others. A field that is itself a dataclass is replaced by inputs for its fields, at the end.
    """
    changes: dict[str, Any] = {}
    options = registry.options(type(owner))
    inner = [name for name in names if dataclasses.is_dataclass(getattr(owner, name))]
    wide = [name for name in names if options[name].kind in registry.RUNS]
    narrow = [name for name in names if name not in (*inner, *wide)]
    columns = st.columns(across) if narrow else []
    places = [st.container() for _ in wide] + [columns[at % across] for at in range(len(narrow))]
    for name, place in zip([*wide, *narrow], places, strict=True):
        value = getattr(owner, name)
        with place:
            try:
                asked = _input(start, owner, name, f"train-{scope}-", prefix)
            except UserError as error:
                st.error(shell.spoken(error))
                changes[WRONG], asked = True, value
        if asked != value:
            changes[f"{prefix}{name}"] = asked
    for name in inner:
        part, path = getattr(owner, name), f"{prefix}{name}."
        changes |= _fields(start, part, registry.options(type(part)), scope, path, across)
    return changes


def _input(start: TrainConfig, owner: Any, name: str, form: str, prefix: str) -> Any:
    """Draw the widget for the field `name` of `owner`, and return its value.
    `prefix`: the part of the field's dotted path before `name`, such as `method.`; `form`: the
    start of all widget keys of this form. The value is None for an optional field that is left
    empty. Raises UserError if the text in a numeric field is not a number.
    """
    value, option = getattr(owner, name), registry.options(type(owner))[name]
    hint, optional = registry.without_none(registry.hints(type(owner))[name])
    if_empty = option.help.partition("empty: ")[2].rstrip(".")  # what an empty optional field means
    common: dict[str, Any] = {
        "label": f"{prefix.removeprefix('method.')}{name}".replace("_", " "),
        "key": f"{form}{prefix}{name}",
        "help": option.help or None,
    }
    runs = _networks(start, option.kind, form) if option.kind in registry.RUNS else {}
    offered = [None, *runs] if option.kind in registry.RUNS else _offered(start, owner, name, hint)
    if offered:
        choices = list(dict.fromkeys([*offered, value]))
        return st.selectbox(
            options=choices,
            index=choices.index(value),
            format_func=lambda one: run_option(runs[one]) if one in runs else one or if_empty,
            accept_new_options=option.kind == "rule",
            **common,
        )
    if hint is bool:
        return st.checkbox(value=value, **common)
    if hint is int and value is not None:
        low, high = (None if end is None else int(end) for end in (option.low, option.high))
        return st.number_input(min_value=low, max_value=high, value=int(value), **common)
    text = st.text_input(
        value=_number(value, option.kind) if isinstance(value, float) else str(value or ""),
        placeholder=if_empty if optional else None,
        **common,
    ).strip()
    if text == "" or hint is str:
        return text or (None if optional else value)
    number = parse_number(text)  # the text is rounded: it may stand for `value` itself
    same = value is not None and abs(number - value) < 1e-6 * max(1.0, abs(value))
    return value if same else number


def _number(value: float, kind: registry.Kind) -> str:
    """A number as a person would type it: a radius as `8/255` if that is a whole grey level."""
    levels = eps_text(value)
    return levels if kind == "radius" and "(" not in levels else f"{value:g}"


def _offered(start: TrainConfig, owner: Any, name: str, hint: Any) -> Sequence[str]:
    """The options that a setting's picker offers; empty if the setting has no picker.
    A choice that needs masks of the true objects is offered only for data that has such masks.
    """
    option = registry.options(type(owner))[name]
    if typing.get_origin(hint) is Literal:
        return typing.get_args(hint)
    if option.kind == "net":
        return registry.keys("net")
    return [
        choice
        for choice in option.choices
        if start.data.has_masks
        or not getattr(dataclasses.replace(owner, **{name: choice}), "objects", False)
    ]


def _networks(start: TrainConfig, kind: registry.Kind, form: str) -> dict[str, folder.Run]:
    """The runs, by id, that a training run can start from or learn from, in the pickers' order.
    These are the user's own runs and the shipped runs with standard training, each only if trained
    on data with exactly these settings. If `kind` is "starting run", only those with the
    architecture chosen in the form whose widget keys start with `form`.
    """
    net = st.session_state.get(f"{form}net", start.net)
    return ordered(
        run
        for run in trained().values()
        if run.info["data"] | {"name": ""} == registry.encode(start.data) | {"name": ""}
        and (run.method_key == "standard" or not run.shipped)
        and (kind != "starting run" or run.architecture == net)
    )


def submit(config: TrainConfig) -> str:
    """Draw the buttons that start the training of `config`, alone or with a second one to compare
    it with. Returns the estimated time of `config`'s training in a sentence or two. A click puts
    the training into the queue and shows its run. If the training cannot start, the reason is shown
    instead of the buttons, and "" is returned. If a shipped run has exactly this config, the
    training gets the next seed for which there is no shipped run.
    """
    try:
        # resolves the runs that a method names, so that the config has the id of its run
        config = config.on_this_machine(folder.find_run)
        queue.check_limits(config.epochs)
        cost = estimate(config)
    except UserError as error:
        st.error(shell.spoken(error))
        return ""
    shipped = [run for run in folder.all_runs() if run.shipped]
    asked, there = config.seed, _same(config, shipped)
    while _same(config, shipped):
        config = dataclasses.replace(config, seed=config.seed + 1)
    if there:
        st.markdown(f"robustviz already includes this network with seed {asked}: `{there}`.")
    if st.button(
        f"Train with seed {config.seed}" if there else "Train",
        type="primary",
        icon=":material/play_arrow:",
        key="train-go",
    ):
        rights.check("train")
        show(queue.submit(config).id)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        key = _beside(config)
        if st.button(
            "Train and compare",
            icon=":material/compare_arrows:",
            key="train-compare",
            help="Both networks are trained with the same images, architecture, seed and settings;"
            " their curves are shown side by side. A is the method compared with, B the one chosen"
            " above.",
        ):
            try:
                _compare(config, key)
            except UserError as error:
                st.error(shell.spoken(error))
    return cost


def _beside(config: TrainConfig) -> str:
    """Draw the picker of the method to compare with; returns that method's key."""
    keys, own = methods(), config.method.key
    start = FIRST["b"] if own == FIRST["a"] else FIRST["a"]
    return str(
        st.selectbox(
            "Compared with",
            keys,
            keys.index(start),
            key=f"train-beside-{own}",
            format_func=lambda key: method_option(key) + ", next seed" * (key == own),
            width=320,
        )
    )


def _compare(config: TrainConfig, key: str) -> None:
    """Queue the training of `config`, and the same with the method `key`, and show both runs.
    If the second one is shipped, it is not trained. Raises UserError if a training cannot start.
    The second one is checked before anything is queued, unless its images may have to be read from
    a folder or downloaded: then the first may be in the queue already.
    """
    rights.check("train")
    other = _like(config, key)
    beside = _same(other, [run for run in folder.all_runs() if run.shipped])
    if not beside and config.data.at_hand:
        fits(other)
    show(job := queue.submit(config).id)
    try:
        beside = beside or queue.submit(other).id
    except UserError as error:
        raise UserError(
            f"{job} is being trained, but the training to compare it with could not start: {error}"
        ) from error
    show(job, beside)


def _like(config: TrainConfig, key: str) -> TrainConfig:
    """The same config with another method, whose key is `key`, at that method's default settings.
    If `key` is the config's own method, the method stays as it is, and the seed is one higher.
    Raises UserError if a run that the other method needs is missing.
    """
    if key == config.method.key:
        return dataclasses.replace(config, seed=config.seed + 1)
    usual = config.select == config.method.select  # True if the user left each method's default
    return dataclasses.replace(
        config, method=registry.get("method", key)(), select=None if usual else config.select
    ).on_this_machine(folder.find_run)


def _same(config: TrainConfig, among: list[folder.Run]) -> str:
    """The id of the run among these that was trained with this config; empty if there is none.
    Settings that do not change what is trained (`WHERE`) are ignored, and so is how many snapshots
    a run stored if `config` stores none.
    """
    fields = dataclasses.fields(TrainConfig)
    later = {each.name: each.default for each in fields if each.metadata.get("later")}
    asked = config.to_json()
    free = {name: asked[name] for name in WHERE} | ({} if config.snapshots else {"snapshots": 0})
    return next(
        (run.id for run in among if {**later, **run.info, **free}.items() >= asked.items()), ""
    )
