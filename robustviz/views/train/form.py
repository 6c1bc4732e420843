"""The form: a widget for every setting of what is chosen, and the config that they say. It follows
from the classes: no setting, data set or method is known here by its name.
"""

from __future__ import annotations

import dataclasses
import os
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import streamlit as st

from robustviz import registry
from robustviz.data import Source
from robustviz.registry import RUNS, Option
from robustviz.runs import folder, queue
from robustviz.runs.folder import Run
from robustviz.terms import term
from robustviz.training.config import WHERE, TrainConfig
from robustviz.training.presets import LESSONS, PRESETS, PUBLISHED
from robustviz.types import UserError, eps_text, parse_number
from robustviz.ui.context import (
    FIRST,
    GROUPS,
    OWN,
    group,
    method_option,
    methods,
    option as run_option,
    ordered,
    trained,
)
from robustviz.views.train.estimate import estimate

WRONG = "?"  # among a form's changes: a field that holds no valid value


def form() -> TrainConfig | None:
    """The form, and what it says as a config; None, with a sentence in its place, where that is no
    valid training.
    """
    try:
        return _asked()
    except UserError as error:
        st.error(str(error))
        return None


def _asked() -> TrainConfig | None:
    left, right = st.columns(2, gap="large")
    with left:
        recipe, data, method = _choice()
    with right:
        _explain(recipe, method)
    with left:
        place = _place(registry.get("data", data))
        if place == "":
            st.info("Type the path of a folder on the computer that runs robustviz.")
            return None
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
        dials = [
            name
            for name, option in registry.options(type(start.data)).items()
            if option.kind != "folder"
        ]
        of_data = _fields(start, start.data, dials, scope, "data.")
        # other defaults follow from these, e.g. the batch from the images' size
        start = TrainConfig.make(preset, chosen, [] if WRONG in of_data else list(of_data.items()))
        of_run = [name for name in registry.options(TrainConfig) if name not in chosen]
        changes |= of_data
        changes |= _fields(start, start, of_run, "-".join([scope, *map(str, of_data.values())]), "")
        rest = [name for name in settings if name not in main]
        changes |= _fields(start, start.method, rest, scope, "method.")
    if changes.pop(WRONG, False):
        raise UserError("A setting above is no valid value; look under More settings too.")
    for path, value in changes.items():
        start = registry.with_value(start, path, value)
    return start


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
        _at(data_keys, preset.get("data", FIRST["data"])),
        key="train-data",
        format_func=lambda key: registry.get("data", key).label,
        help=term("shapes"),
        on_change=_leave_recipe,
    )
    method = st.selectbox(
        "Method",
        keys,
        _at(keys, preset.get("method", FIRST["b"])),
        key="train-method",
        format_func=method_option,
        help=term("groups"),
        on_change=_leave_recipe,
    )
    return str(recipe), str(data), str(method)


def _recipe_option(name: str) -> str:
    """A recipe's name in the picker: what kind it is, then its name."""
    kind = "Lesson · " if name in LESSONS else ""
    return f"{'Published, for a GPU · ' if name in PUBLISHED else kind}{name}"


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
    own = GROUPS[group(method)]
    if own.caution:
        st.warning(f"**{own.name}.** {own.caution}", icon=own.icon)


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


def _at(options: list[str], wanted: str) -> int:
    """The position to start from; the first where what is wanted is not there."""
    return options.index(wanted) if wanted in options else 0


def _place(data: type[Source]) -> str | None:
    """The folder that holds the user's own data; None where the data set has none."""
    for name in registry.of_kind(data, "folder"):
        return st.text_input(registry.options(data)[name].help, key="train-folder").strip()
    return None


@dataclass(frozen=True)
class _Setting:
    """A field of `owner`, which is a part of the config `start`, as its widget needs it; `prefix`
    is its owner's dotted path, `form` what the keys of all widgets start with.
    """

    start: TrainConfig
    owner: Any
    name: str
    form: str
    prefix: str

    @property
    def value(self) -> Any:
        return getattr(self.owner, self.name)

    @property
    def option(self) -> Option:
        return registry.options(type(self.owner))[self.name]

    @property
    def optional(self) -> bool:
        return type(None) in typing.get_args(registry.hints(type(self.owner))[self.name])

    @property
    def hint(self) -> Any:
        """Its type, without the None of an optional one."""
        hint = registry.hints(type(self.owner))[self.name]
        return typing.get_args(hint)[0] if self.optional else hint

    @property
    def if_empty(self) -> str:
        """What an optional setting means where nothing is given: what its help says after
        "empty:".
        """
        return self.option.help.partition("empty: ")[2].rstrip(".")

    @property
    def title(self) -> str:
        return f"{self.prefix.removeprefix('method.')}{self.name}".replace("_", " ")

    @property
    def common(self) -> dict[str, Any]:
        """What every widget takes."""
        return {"key": f"{self.form}{self.prefix}{self.name}", "help": self.option.help or None}


def _fields(
    start: TrainConfig, owner: Any, names: Iterable[str], scope: str, prefix: str, across: int = 3
) -> dict[str, Any]:
    """One input for each of these fields of a dataclass inside `start`, so many a row; only what
    was changed, by dotted path. Runs have long names: each has a row of its own, above the others.
    """
    changes: dict[str, Any] = {}
    settings = [_Setting(start, owner, name, f"train-{scope}-", prefix) for name in names]
    inner = [setting for setting in settings if dataclasses.is_dataclass(setting.value)]
    plain = [setting for setting in settings if not dataclasses.is_dataclass(setting.value)]
    wide = [setting for setting in plain if setting.option.kind in RUNS]
    narrow = [setting for setting in plain if setting not in wide]
    columns = st.columns(across) if narrow else []
    places = [st.container() for _ in wide] + [columns[at % across] for at in range(len(narrow))]
    for setting, place in zip([*wide, *narrow], places, strict=True):
        with place:
            try:
                value = _input(setting)
            except UserError as error:
                st.error(str(error))
                changes[WRONG] = True
                continue
        if value != setting.value:
            changes[f"{prefix}{setting.name}"] = value
    for setting in inner:
        part, path = setting.value, f"{prefix}{setting.name}."
        changes |= _fields(start, part, registry.options(type(part)), scope, path, across)
    return changes


def _input(setting: _Setting) -> Any:
    """The widget that fits a setting; the value it holds. Raises UserError for text where a number
    belongs.
    """
    value, option, common = setting.value, setting.option, setting.common
    if option.kind in RUNS:
        return _run(setting)
    if offered := _offered(setting):
        choices = list(dict.fromkeys([*offered, value]))
        free = option.kind == "rule"
        at = choices.index(value)
        return st.selectbox(setting.title, choices, at, accept_new_options=free, **common)
    if setting.hint is bool:
        return st.checkbox(setting.title, value, **common)
    if setting.hint is int and value is not None:
        ends: Any = [None if end is None else int(end) for end in (option.low, option.high)]
        return int(st.number_input(setting.title, *ends, value=int(value), **common))
    return _text(setting)


def _offered(setting: _Setting) -> tuple[str, ...]:
    """What a setting can be chosen from; nothing where it takes anything."""
    if typing.get_origin(setting.hint) is Literal:
        return typing.get_args(setting.hint)
    if setting.option.kind == "net":
        return registry.keys("net")
    return tuple(choice for choice in setting.option.choices if _suits(setting, choice))


def _suits(setting: _Setting, choice: str) -> bool:
    """Whether this data has what the choice asks for: some masks are the true objects."""
    owner = dataclasses.replace(setting.owner, **{setting.name: choice})
    return setting.start.data.has_masks or not getattr(owner, "objects", False)


def _run(setting: _Setting) -> str | None:
    here = _networks(setting)
    ids: list[str | None] = list(dict.fromkeys([None, *here, setting.value]))
    return st.selectbox(
        setting.title,
        ids,
        ids.index(setting.value),
        format_func=lambda name: (
            run_option(here[name]) if name in here else name or setting.if_empty
        ),
        **setting.common,
    )


def _networks(setting: _Setting) -> dict[str, Run]:
    """The runs that a training can start from or learn from: ordinary shipped ones and the user's,
    on this very data. One that it starts from keeps its architecture, so it must be of the network
    chosen.
    """
    start = setting.start
    net = st.session_state.get(f"{setting.form}net", start.net)
    return ordered(
        run
        for run in trained().values()
        if run.info["data"] == registry.encode(start.data)
        and (run.method_key == "standard" or not run.shipped)
        and (setting.option.kind != "starting run" or run.architecture == net)
    )


def _text(setting: _Setting) -> Any:
    """A text, or a number as a person would type it: a radius in grey levels where it is a whole
    number of them.
    """
    value = setting.value
    shown = value or ""
    if isinstance(value, float):
        levels = eps_text(value)
        whole = setting.option.kind == "radius" and "(" not in levels
        shown = levels if whole else f"{value:g}"
    hint = setting.if_empty if setting.optional else None
    text = st.text_input(setting.title, str(shown), placeholder=hint, **setting.common).strip()
    if text == "":
        return None if setting.optional else value
    if setting.hint is str:
        return text
    number = parse_number(text)
    same = value is not None and abs(number - value) < 1e-6 * max(1.0, abs(value))
    return value if same else number


def submit(config: TrainConfig) -> None:
    """The estimate and the button, or what does not fit. What is shipped already is trained with
    the next seed instead.
    """
    try:
        # so that its id is the run's: a method may name other runs
        config = config.on_this_machine(folder.find_run)
        cost = estimate(config)
    except UserError as error:
        st.error(str(error))
        return
    shipped = [run for run in folder.all_runs() if run.shipped]
    asked, there = config.seed, _same(config, shipped)
    while _same(config, shipped):
        config = dataclasses.replace(config, seed=config.seed + 1)
    with st.container(horizontal=True, vertical_alignment="center"):
        if os.environ.get("ROBUSTVIZ_DEMO"):
            st.info("Training is switched off on this demo server.")
        elif st.button(
            f"Train with seed {config.seed}" if there else "Train",
            type="primary",
            icon=":material/play_arrow:",
            key="train-go",
        ):
            st.query_params["job"] = queue.submit(config).id
        known = (
            f"With seed {asked} this is shipped with robustviz already: `{there}`. How much does"
            " another seed differ?  \n"
        )
        st.markdown(f"{known if there else ''}{cost}")


def _same(config: TrainConfig, among: list[Run]) -> str:
    """The id of the run of this config, or of one that differs only in having kept snapshots too;
    empty where there is none.
    """
    asked = config.to_json()
    free = {name: asked[name] for name in WHERE} | ({} if config.snapshots else {"snapshots": 0})
    return next((run.id for run in among if {**run.info, **free}.items() >= asked.items()), "")
