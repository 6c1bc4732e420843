"""The form: a widget for every setting of what is chosen, and the config that they say. It follows
from the classes: no setting, data set or method is known here by its name.
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

WRONG = "?"  # among a form's changes: a field that holds no valid value


def form() -> TrainConfig | None:
    """The form, and what it says as a config; None, with a sentence in its place, where that is no
    valid training, or where somebody else trains here.
    """
    if not rights.may_act():
        st.info(f"{rights.sentence('train')} What is trained is shown here as it goes.")
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
        # other defaults follow from these, e.g. the batch from the images' size
        start = TrainConfig.make(preset, chosen, [] if WRONG in of_data else list(of_data.items()))
        of_run = [name for name in registry.options(TrainConfig) if name not in chosen]
        rest = [name for name in settings if name not in main]
        under = "-".join([scope, *map(str, of_data.values())])
        changes |= of_data | _fields(start, start, of_run, under, "", across=2)
        changes |= _fields(start, start.method, rest, scope, "method.", across=2)
    if changes.pop(WRONG, False):
        raise UserError("A setting above is no valid value; look under More settings too.")
    for path, value in changes.items():
        start = registry.with_value(start, path, value)
    return start


def _check_typed(place: str) -> None:
    """Raises UserError for a path that this session may not have read: on one's own computer, one
    outside the home folder and the folder of the data sets.
    """
    rights.check("name folders")
    own = () if rights.mode() == "lab" else (Path.home(),)  # a server's user owns nobody's pictures
    try:
        paths.check_open(
            Path(place).expanduser(), paths.roots() or (*own, datasets.root().resolve())
        )
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError("That is no path of a folder.") from error


def _choice() -> tuple[str, str, str]:
    """The pickers of the recipe, the data set and the method."""
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
    if st.session_state.get("train-data", data_keys[0]) not in data_keys:  # it was removed
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
    """A data set's name in the picker; one of the user's own goes by the name it was given."""
    return registry.get("data", name).label if name in registry.keys("data") else f"Yours · {name}"


def _recipe_option(name: str) -> str:
    """A recipe's name in the picker: what kind it is, then its name."""
    lesson = f"Lesson · {name}" if name in LESSONS else name
    return f"Published, for a GPU · {name}" if name in PUBLISHED else lesson


def _explain(recipe: str, method: str) -> None:
    """What else there is to say of the method, whose it is, where we had to choose, and what the
    recipe is.
    """
    cls = registry.get("method", method)
    st.markdown(
        f"{cls.text}  \n*{cls.paper}.*"
        + (f"  \n**Where we had to choose:** {cls.choices}" if cls.choices else "")
    )
    if recipe in PRESETS:
        st.markdown(f"**Recipe {recipe}.** {PRESETS[recipe].text}")


def _follow_recipe() -> None:
    """The recipe changed: show its data set and method."""
    if recipe := PRESETS.get(st.session_state["train-recipe"]):
        for name in ("data", "method"):
            st.session_state[f"train-{name}"] = recipe.settings[name]


def _leave_recipe() -> None:
    """Data or method changed: what is shown is the recipe no more, and must not keep its other
    settings.
    """
    st.session_state["train-recipe"] = OWN


def _fields(
    start: TrainConfig, owner: Any, names: Iterable[str], scope: str, prefix: str, across: int = 3
) -> dict[str, Any]:
    """One input for each of these fields of a dataclass inside `start`, so many a row; only what
    was changed, by dotted path. Runs have long names: each has a row of its own, above the others.
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
    """The widget that fits the field `name` of `owner`, whose dotted path is `prefix`; the value it
    holds. The keys of all widgets begin with `form`. Raises UserError for text where a number
    belongs.
    """
    value, option = getattr(owner, name), registry.options(type(owner))[name]
    hint, optional = registry.without_none(registry.hints(type(owner))[name])
    if_empty = option.help.partition("empty: ")[2].rstrip(".")  # what an optional one means then
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
    number = parse_number(text)  # of few digits it may be the one that is there already
    same = value is not None and abs(number - value) < 1e-6 * max(1.0, abs(value))
    return value if same else number


def _number(value: float, kind: registry.Kind) -> str:
    """A number as a person would type it: a radius in grey levels where it is a whole number of
    them.
    """
    levels = eps_text(value)
    return levels if kind == "radius" and "(" not in levels else f"{value:g}"


def _offered(start: TrainConfig, owner: Any, name: str, hint: Any) -> Sequence[str]:
    """What a setting can be chosen from; nothing where it takes anything. Masks that are the true
    objects are for data that has them.
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
    """The runs that a training can start from or learn from: ordinary shipped ones and the user's,
    on this very data. One that it starts from keeps its architecture, so it must be of the network
    chosen.
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
    """The buttons; how long it will take, or what does not fit and then no buttons. What is shipped
    already is trained with the next seed instead.
    """
    try:
        # so that its id is the run's: a method may name other runs
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
        st.markdown(f"With seed {asked} this is shipped with robustviz already: `{there}`.")
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
            help="Both are trained with the same images, network, seed and settings; their curves"
            " stand side by side. A is what it is compared with, B what is chosen above.",
        ):
            try:
                _compare(config, key)
            except UserError as error:
                st.error(shell.spoken(error))
    return cost


def _beside(config: TrainConfig) -> str:
    """The picker of the method that a training is compared with."""
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
    """Train this and its like of the method `key`, where that is not shipped; both are shown.
    Raises UserError, before anything is queued, where the other could not begin.
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
            f"{job} is trained, but what it was to be compared with is not: {error}"
        ) from error
    show(job, beside)


def _like(config: TrainConfig, key: str) -> TrainConfig:
    """The same training with another method, as that one is by default; of the same method one with
    the next seed.
    """
    if key == config.method.key:
        return dataclasses.replace(config, seed=config.seed + 1)
    usual = config.select == config.method.select  # each method's own, where nobody chose
    return dataclasses.replace(
        config, method=registry.get("method", key)(), select=None if usual else config.select
    ).on_this_machine(folder.find_run)


def _same(config: TrainConfig, among: list[folder.Run]) -> str:
    """The id of the run of this config, or of one that differs only in having kept snapshots too;
    empty where there is none.
    """
    fields = dataclasses.fields(TrainConfig)
    later = {each.name: each.default for each in fields if each.metadata.get("later")}
    asked = config.to_json()
    free = {name: asked[name] for name in WHERE} | ({} if config.snapshots else {"snapshots": 0})
    return next(
        (run.id for run in among if {**later, **run.info, **free}.items() >= asked.items()), ""
    )
