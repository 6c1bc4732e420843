"""What a page shows if a network that its address names is not on this computer: what the network
is, and the command that trains it, as far as the link and local files tell.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import streamlit as st

from robustviz import paths
from robustviz.imports import load
from robustviz.runs import catalogue, folder, recipes
from robustviz.runs.files import read_json
from robustviz.runs.naming import method_label
from robustviz.runs.recipes import Recipe
from robustviz.types import UserError
from robustviz.ui import networks, shell

EPOCHS = 100  # numbers of epochs up to this one are tried to find a run's settings
KEPT = [paths.ROOT / "checkpoints" / name for name in ("claims/runs", "seeds")]


@dataclass(frozen=True)
class Known:
    """What is known about a run that is not on this computer.

    `name`: the data set, method, network and seed in its id; None if the id has another form,
    because a person chose it. `recipe`: its settings, empty if unknown. `exact`: whether the recipe
    trains exactly this run; if not, a similar one. `called`: the run's id if a person chose it,
    else empty; only the link can then tell the recipe.
    """

    name: recipes.Name | None
    recipe: Recipe
    exact: bool
    called: str = ""

    @property
    def commands(self) -> list[str]:
        """The shell commands that train the run; empty if the recipe is unknown. The missing runs
        that it starts from are trained first, if their recipes are known exactly.
        """
        starts = (value for path, value in self.recipe.items() if path not in recipes.FLAGS)
        first = [known(one) for one in starts if recipes.name(one) and not _here(one)]
        lines = [line for one in first if one.exact for line in one.commands]
        return [*lines, recipes.command(self.recipe, self.called)] if self.recipe else []


@functools.lru_cache(maxsize=64)
def known(run_id: str, carried: str = "") -> Known:
    """What is known about a run from its id, from local files about runs without weights (`KEPT`),
    and from `carried`, the recipe in the link as `recipes.packed` writes it (empty: none).
    """
    name = recipes.name(run_id)
    for config in _candidates(run_id, name, carried):
        if config.run_id == run_id and (recipe := recipes.of(config)):
            return Known(name, recipe, exact=True)
    if name is None:
        return Known(None, _carried(carried), exact=False, called=run_id)
    if not catalogue.known("data", name.data):
        return Known(name, {}, exact=False)
    rest = {} if catalogue.facts("data", name.data)["folders"] else name._asdict()
    return Known(name, {key: str(value) for key, value in rest.items()}, exact=False)


def _candidates(run_id: str, name: recipes.Name | None, carried: str) -> Iterator[Any]:
    """Yields configs of trainings that may be this run, the likeliest first. A run's id contains a
    hash of its settings, so the caller can recognise the right one.
    """
    kind = load("robustviz.training.config").TrainConfig
    for place in KEPT:
        if (file := place / f"{run_id}.json").is_file():
            yield kind.from_json(read_json(file)["config"])
    for recipe in (recipes.unpacked(carried), *_guesses(name)):
        try:
            yield (config := recipes.read(recipe))
            # with the runs filled in that the method uses by default
            yield replace(config, method=config.method.resolved(config, folder.find_run))
        except UserError:  # another version, a user's own images, or a run that is not here
            continue
    if name is not None:
        yield from _claimed(name)


def _carried(word: str) -> Recipe:
    """The recipe packed in a link; empty if no training can be made from it."""
    recipe = recipes.unpacked(word)
    try:
        return recipe if recipe and recipes.read(recipe) else {}
    except UserError:
        return {}


def _guesses(name: recipes.Name | None) -> Iterator[Recipe]:
    """Yields recipes that runs with this data, method, network and seed often have: the data set's
    own settings, those of a preset, and other numbers of epochs. Yields nothing if `name` is None.
    """
    if name is None:
        return
    said = {key: str(value) for key, value in name._asdict().items()}
    yield said
    for preset in load("robustviz.training.presets").PRESETS.values():
        settings = preset.settings
        if (settings.get("data"), settings.get("method")) == (name.data, name.method):
            yield {key: f"{value}" for key, value in settings.items()} | said
    for epochs in range(1, EPOCHS + 1):
        yield said | {"epochs": str(epochs)}


def _claimed(name: recipes.Name) -> Iterator[Any]:
    """Yields the configs of the trainings for the claims on this data set, as if the claims were
    tested with this seed and with the one 100 below.
    """
    claim = load("robustviz.claims.claim")
    for setup in claim.setups():
        # claims about transfer also train a network whose seed is 100 above the setup's
        seeds = tuple({name.seed, max(0, name.seed - 100)})
        if setup.data == name.data:
            for config, _ in claim.trainings(claim.claims(), replace(setup, seeds=seeds)):
                yield config


def _here(run_id: str) -> bool:
    try:
        folder.open_model(run_id)
    except UserError:
        return False
    return True


def noticed(every: Mapping[str, folder.Run]) -> dict[str, tuple[str, str]]:
    """The networks that the address names but that are not in `every`: for each side, `a` or `b`, a
    pair of the run's id and the recipe in the link (`recipes.packed`). They are remembered in the
    session until the user chooses another network (`tell`). If such a run has been trained since,
    it is selected on its side and left out here.
    """
    state = st.session_state
    missing: dict[str, tuple[str, str]] = state.setdefault("absent", {})
    for side in ("a", "b"):
        said = st.query_params.get(side, "")
        if side not in state and said and said not in every:
            missing[side] = (said, st.query_params.get(f"{side}-set", ""))
        elif side in missing and missing[side][0] in every:
            state[side] = missing.pop(side)[0]
            state["data"] = networks.data_name(every[state[side]])
            state.pop(f"stands-{side}", None)
    return missing


def data(missing: Mapping[str, tuple[str, str]]) -> str:
    """The data set that the address names, else that of a missing network according to its id;
    empty if neither names one. `missing`: as `noticed` returns it.
    """
    if said := st.query_params.get("data"):
        return said
    named = (recipes.name(run_id) for run_id, _ in missing.values())
    return next((one.data for one in named if one is not None), "")


def tell(chosen: Mapping[str, folder.Run | None]) -> None:
    """Say for each side which network is missing, until the user chooses another one; for a data
    set without networks, say how to train some. Also keep in the address what is needed to open
    this page again, even on another computer. `chosen`: the run that each side, `a` or `b`, shows
    now; None for no run.
    """
    state = st.session_state
    missing: dict[str, tuple[str, str]] = state.get("absent", {})
    if (asked := state.pop("absent-data", "")) and not missing and catalogue.known("data", asked):
        st.markdown(
            f"There is no network for {asked} on this computer. These commands train the two"
            " default networks:"
        )
        pair = [{"data": asked, "method": networks.FIRST[side]} for side in ("a", "b")]
        st.code("\n".join(map(recipes.command, pair)), language="bash", wrap_lines=True)
    address: dict[str, str] = {}
    for side, run in chosen.items():
        if side in missing:
            stands = state.setdefault(f"stands-{side}", state[side])
            if state[side] != stands:
                del missing[side], state[f"stands-{side}"]
        if side in missing:
            run_id, carried = missing[side]
            address |= {side: run_id, f"{side}-set": carried}
            _explain(side, run_id, carried, run)
        elif run is not None and not run.shipped:
            address |= {side: run.id, f"{side}-set": _recipe(run)}
    shell.pin(address, ("a", "b", "a-set", "b-set"))


@functools.lru_cache(maxsize=256)
def _recipe(run: folder.Run) -> str:
    try:
        return "" if run.imported else recipes.packed(recipes.of(run.config))
    except UserError:
        return ""


def _explain(side: str, run_id: str, carried: str, stands: folder.Run | None) -> None:
    letter = f":{shell.side_colour(side)}[**{side.upper()}**]"
    with st.container(border=True, key=f"absent-{side}"):
        explain(run_id, carried, f"{letter} of this link")
        if stands is not None:
            st.markdown(f"Until it is here, {letter} is {networks.label(stands)}.")


def explain(run_id: str, carried: str = "", what: str = "The run of this link") -> None:
    """Draw sentences on a run that is not on this computer, and the commands that train or import
    it. `carried`: as in `known`; `what`: the words with which the sentences begin.
    """
    if not folder.ID.fullmatch(run_id):
        st.markdown(f"{what} is not here: the link does not contain a valid run id.")
        return
    if (here := folder.Run(folder.home() / run_id)).path.is_dir():
        try:
            _ = here.config
            st.markdown(
                f"{what} is `{run_id}`, which is here, but no page can open it yet: see Train."
            )
        except UserError as error:
            st.markdown(f"{what} is `{run_id}`, which is here. {shell.spoken(error)}")
        return
    found = known(run_id, carried)
    name = found.name
    told = (
        f"{method_label(name.method)} on {name.data}, seed {name.seed}" if name else f"`{run_id}`"
    )
    st.markdown(f"{what} is {told}. It is not on this computer.")
    if found.commands:
        st.markdown(
            "This trains exactly this network:"
            if found.exact
            else "According to the link it was trained like this:"
            if found.called
            else "Some of its settings are unusual, and the link does not tell which. This"
            " trains the most similar network:"
        )
        st.code("\n".join(found.commands), language="bash", wrap_lines=True)
    if not found.exact:
        st.markdown("The person who made the link can export the network, and you can import it:")
        st.code(
            f"python -m robustviz run export {run_id} --out {run_id}.zip\n"
            f"python -m robustviz run import {run_id}.zip",
            language="bash",
            wrap_lines=True,
        )
