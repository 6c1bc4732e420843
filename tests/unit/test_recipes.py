"""Tests recipes: a command, a link or just the id of a run is enough to train exactly this run
again.
"""

from __future__ import annotations

import shlex

import pytest

from robustviz.runs import folder, recipes
from robustviz.training.config import TrainConfig
from robustviz.training.presets import PRESETS
from robustviz.types import UserError
from robustviz.ui import absent


@pytest.mark.parametrize("preset", PRESETS)
def test_command_and_link_of_every_preset_train_the_same_run(preset):
    config = TrainConfig.make(preset, {"seed": 3})
    recipe = recipes.of(config)
    assert recipes.unpacked(recipes.packed(recipe)) == recipe
    assert recipes.read(recipe).run_id == config.run_id
    words = shlex.split(recipes.command(recipe))
    assert words[:4] == ["python", "-m", "robustviz", "train"]
    pairs = list(zip(words[4::2], words[5::2], strict=True))
    sets = [tuple(value.split("=", 1)) for word, value in pairs if word == "--set"]
    flags = {word[2:]: value for word, value in pairs if word != "--set"}
    found = TrainConfig.make(None, {"data": flags.pop("data"), "method": flags.pop("method")}, sets)
    assert TrainConfig.make(None, found_flags(flags, found), sets).run_id == config.run_id


def found_flags(flags: dict[str, str], base: TrainConfig) -> dict[str, object]:
    numbers = {"epochs": int, "seed": int, "net": str}
    typed = {key: numbers[key](value) for key, value in flags.items() if key != "eps"}
    return {"data": base.data.key, "method": base.method.key, **typed} | (
        {"eps": recipes.read({"data": "digits", "eps": flags["eps"]}).eps} if "eps" in flags else {}
    )


def test_every_shipped_id_says_what_it_is_of():
    for run in filter(lambda run: run.shipped, folder.all_runs()):
        said = recipes.name(run.id)
        assert said == (run.data_key, run.method_key, run.architecture, run.info["seed"])
    assert recipes.name("birds-of-mine-afa-trades-small-resnet-s7-12345678") == (
        *("birds-of-mine", "afa_trades", "small_resnet"),
        7,
    )
    assert recipes.name("photographs") is None and recipes.name("") is None


@pytest.mark.parametrize(
    "word",
    [
        "data=folder~path=/etc",
        "data=digits~init=/home/somebody/weights.safetensors",
        "data=digits~method=model_alignment~method.source=/home/somebody/run",
        "data=digits~method=model_alignment~method.witness=../run",
        "data=digits~init=../run",
        "data=digits~method=made_up",
        "data=digits~seed=-1",
        "data=digits~seed=many",
        "data=digits~no.such.setting=1",
        "seed=1",
    ],
)
def test_a_link_reaches_into_no_folder_and_trains_no_nonsense(word):
    with pytest.raises(UserError):
        recipes.read(recipes.unpacked(word))


@pytest.mark.parametrize("word", ["", "~", "data", "a b=c", "data=$(rm)", "data=a;b", "x" * 9999])
def test_what_is_no_recipe_is_none(word):
    assert not recipes.unpacked(word) or word == "data"


def test_images_of_somebody_s_own_are_in_no_link(tmp_path):
    assert recipes.of(TrainConfig.make(None, {"data": f"folder:{tmp_path}"})) == {}
    assert recipes.packed({}) == ""


@pytest.mark.parametrize(
    ("method", "sets", "carried"),
    [
        ("trades", {"seed": 41}, ""),  # All settings but the seed are usual.
        ("pgd_at", {"seed": 41, "epochs": 7}, ""),  # The number of epochs is found by trying.
        # The weight is a preset's.
        ("supcon_margin", {"seed": 41, "method.margin_weight": 0.0}, ""),
        ("trades", {"seed": 41, "method.beta": 1.5}, "link"),
    ],
)
def test_the_very_run_is_found_by_its_id(method, sets, carried):
    config = TrainConfig.make(None, {"data": "digits", "method": method}, list(sets.items()))
    found = absent.known(config.run_id, recipes.packed(recipes.of(config)) if carried else "")
    assert found.exact and recipes.read(found.recipe).run_id == config.run_id


def test_what_no_link_tells_is_not_made_up():
    config = TrainConfig.make(None, {"data": "digits", "seed": 41}, [("method.attack.steps", 3)])
    # This link belongs to another run.
    found = absent.known(config.run_id, "data=digits~method=trades~seed=41")
    assert not found.exact and recipes.read(found.recipe).run_id != config.run_id
    assert found.name == ("digits", "pgd_at", "small_resnet", 41)
    unknown = absent.known("birds-pgd-at-small-resnet-s0-12345678")
    assert not unknown.exact and not unknown.commands


def test_runs_of_the_claims_are_known_by_their_ids():
    from robustviz.claims import claim

    every = [
        config for setup in claim.setups() for config, _ in claim.trainings(claim.claims(), setup)
    ]
    for config in every[::23]:
        assert absent.known(config.run_id).exact, config.run_id


def test_runs_that_a_run_starts_from_are_trained_first():
    first = TrainConfig.make(None, {"data": "digits", "method": "standard", "seed": 41})
    config = TrainConfig.make(
        None,
        {"data": "digits", "method": "model_alignment", "seed": 41},
        [("method.source", first.run_id), ("method.witness", first.run_id)],
    )
    lines = absent.known(config.run_id, recipes.packed(recipes.of(config))).commands
    assert lines[-1] == recipes.command(recipes.of(config))
    assert recipes.command(recipes.of(first)) in lines[:-1]


def test_a_run_that_somebody_named_is_trained_under_its_name():
    config = TrainConfig.make(None, {"data": "digits", "method": "trades"}, [("method.beta", 1.5)])
    found = absent.known("mine", recipes.packed(recipes.of(config)))
    assert not found.exact and found.commands == [
        "python -m robustviz train --name mine --data digits --method trades --set method.beta=1.5"
    ]
    assert absent.known("mine", "data=folder~path=/etc").commands == []
