"""Tests presets that carry a paper's name against one table of the authors' values: the text names
exactly the differences.
"""

from __future__ import annotations

import dataclasses
import math
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from robustviz.methods import base
from robustviz.methods.base import Adversarial, Method
from robustviz.nets import attackable
from robustviz.training import config as module
from robustviz.training.config import TrainConfig
from robustviz.training.order import learning_rate
from robustviz.training.presets import KEPT, PUBLISHED, Preset
from robustviz.types import UserError, parse_number

TABLE = tomllib.loads((Path(__file__).parents[2] / "docs" / "published.toml").read_text("utf-8"))
OURS = TABLE.pop("ours")
# These settings decide what is trained, whether or not the preset sets them.
DECISIVE = {field.name for field in dataclasses.fields(TrainConfig)} - {
    *module.WHERE,
    "seed",
    "snapshots",
    "eps",
    # At their defaults these change nothing, and no preset sets them.
    "init",
    "patience",
}
ATTACK = {"eps", "method.attack_mode", "method.attack.step_size", "method.attack.start"}


def ours(config: TrainConfig, path: str) -> Any:
    """Returns the value of a config at a dotted path: the key of a registered object, and the
    effective step size.
    """
    found: Any = dataclasses.replace(config, method=config.bound_method)
    for part in path.split("."):
        found, owner = getattr(found, part), found
    if path == "method.attack.step_size" and found is None:
        return owner.default_step(owner.eps)
    return getattr(found, "key", found)


def same(mine: Any, theirs: Any) -> bool:
    if isinstance(theirs, bool) or isinstance(mine, (bool, str)):
        return bool(mine == theirs)
    try:
        return math.isclose(mine, parse_number(theirs))
    except UserError:
        return False


def facts(config: TrainConfig) -> dict[str, Any]:
    """Returns our values of facts that no setting expresses."""
    bf16 = isinstance(config.method, Adversarial) and config.method.attack_mode == "eval"
    return {**OURS, "gradients": "bf16" if bf16 else "float32"}


def differing(preset: Preset, table: dict[str, Any]) -> set[str]:
    """Returns the settings and facts in which a preset differs from the table, or about which the
    table says nothing.
    """
    config = TrainConfig.make(None, None, list(preset.settings.items()))
    attacks = isinstance(config.method, Adversarial)
    theirs, mine = table["settings"], facts(config)
    paths = DECISIVE | (ATTACK if attacks else set()) | {*preset.settings, *theirs}
    if hasattr(getattr(config.method, "attack", None), "steps"):
        paths.add("method.attack.steps")
    assert set(table["facts"]) <= set(mine)
    return {
        path for path in paths if path not in theirs or not same(ours(config, path), theirs[path])
    } | {fact for fact, value in table["facts"].items() if mine[fact] != value}


def declared(preset: Preset) -> list[str]:
    return " ".join(preset.differs.values()).split()


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_differs_from_the_authors_is_named_and_what_is_named_differs(name: str) -> None:
    preset = PUBLISHED[name]
    assert differing(preset, TABLE[name]) == set(declared(preset))
    assert len(set(declared(preset))) == len(declared(preset))
    _, _, after = preset.text.partition(" Differs: ")
    assert after == f"{'; '.join(preset.differs)}."


def test_the_table_has_a_source_for_each_preset_and_nothing_else() -> None:
    assert set(TABLE) == set(PUBLISHED)
    assert all(table["read"] for table in TABLE.values())


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_preset_says_which_weights_it_keeps_and_where_gradients_are_bf16(
    name: str,
) -> None:
    preset = PUBLISHED[name]
    assert [words for words in KEPT.values() if words in preset.text] == [
        KEPT[preset.settings["select"]]
    ]
    made = TrainConfig.make(name)
    assert ("gradients are in bf16" in preset.text) == (facts(made)["gradients"] == "bf16")


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_text_has_short_sentences(name: str) -> None:
    for sentence in re.split(r"(?<=[\w\])%])[.;:] ", PUBLISHED[name].text):
        assert len(sentence.split()) <= 20, sentence


# Another schedule, another ε or another choice of weights must be noticed.


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("cifar10-mart", "eps", 8 / 255),
        ("cifar10-mart", "schedule", "step"),
        ("cifar10-mart", "method.attack.step_size", 2 / 255),
        ("cifar10-trades", "schedule", "step@75/76"),
        ("cifar10-trades", "weight_decay", 5e-4),
        ("cifar10-fast-at", "schedule", "cyclic"),
        ("cifar10-fast-at", "select", "robust"),
        ("cifar10-fast-at", "method.attack_mode", "eval"),
        ("cifar10-pgd-at", "momentum", 0.8),
        ("cifar10-pgd-at", "method.attack.steps", 7),
        ("cifar10-alignment", "method.temperature", 1.0),
        ("cifar10-part", "method.apply", "scale"),
        ("cifar10-part-as-released", "method.rule", "z>1"),
        ("cifar10-part-as-released", "method.masks_of", "own"),
        ("cifar10-part-as-released", "method.cam_class", "true"),
        ("cifar10-part-as-released", "schedule", "step"),
        ("cifar10-part-as-released", "select", "robust"),
        ("cifar10-part-t", "method.bn", "single"),
        ("cifar10-part-t", "method.beta", 5.0),
        ("cifar10-part-m", "method.beta", 5.0),
        ("cifar10-part-wrn", "method.cam_maps", "last"),
    ],
)
def test_another_value_is_noticed(name: str, path: str, value: Any) -> None:
    changed = dataclasses.replace(
        PUBLISHED[name], settings={**PUBLISHED[name].settings, path: value}
    )
    assert path in differing(changed, TABLE[name]) and path not in declared(changed)


# The authors' learning rates, as their scripts set them.


def _steps(*first: int) -> Callable[[int, float], float]:
    """Returns the factor of the learning rate, divided by ten from each of these epochs on, counted
    from 1.
    """
    return lambda epoch, share: 0.1 ** sum(epoch >= each for each in first)


RATES: dict[str, tuple[float, Callable[[int, float], float]]] = {
    "cifar10-mart": (0.01, _steps(75, 90, 100)),
    "cifar10-trades": (0.1, _steps(75, 90, 100)),
    **{
        f"cifar10-part{end}": (0.01, _steps(80)) for end in ("", "-as-released", "-t", "-m", "-wrn")
    },
    "cifar10-pgd-at": (0.1, lambda _, at: 1 if at < 0.5 else 0.1 if at < 0.75 else 0.01),
    "cifar10-fast-at": (0.2, lambda _, at: 2 * at if at < 0.5 else 2 - 2 * at),
}


@pytest.mark.parametrize("name", RATES)
def test_the_rate_is_the_authors_in_every_step(name: str) -> None:
    config, (top, slow) = TrainConfig.make(name), RATES[name]
    epochs, batches = int(config.epochs or 0), 4
    for step in range(epochs * batches):
        share = (step + 0.5) / (epochs * batches)  # As in the training loop.
        assert learning_rate(str(config.schedule), float(config.lr or 0), share) == pytest.approx(
            top * slow(step // batches + 1, share)
        )


def test_the_rate_of_fast_at_is_torchs_cyclic_one_half_a_step_later() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([weight], lr=0.2, momentum=0.9)
    total = 60
    theirs = torch.optim.lr_scheduler.CyclicLR(
        optimiser, base_lr=0, max_lr=0.2, step_size_up=total // 2, step_size_down=total // 2
    )
    config = TrainConfig.make("cifar10-fast-at")
    for step in range(total):
        rate = learning_rate(str(config.schedule), 0.2, step / total)
        assert theirs.get_last_lr() == [pytest.approx(rate)]
        optimiser.step()
        theirs.step()


# Where gradients are bf16.


def test_a_training_attack_asks_for_bf16_in_eval_mode_only(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, bool]] = []

    def spy(net: Any, mode: str, *, bf16: bool) -> Any:
        asked.append((mode, bf16))
        return attackable.attackable(net, mode, bf16=False)  # type: ignore[arg-type]

    monkeypatch.setattr(base, "attackable", spy)
    images = torch.zeros(128, 3, 32, 32)
    for name in PUBLISHED:
        method: Method = TrainConfig.make(name).bound_method
        if isinstance(method, Adversarial):
            with method.attackable(torch.nn.Identity(), images):  # type: ignore[arg-type]
                pass
            mode, bf16 = asked.pop()
            # In train mode the attack uses the network itself, in its own precision.
            assert ("gradients are in bf16" in PUBLISHED[name].text) == (bf16 and mode == "eval"), (
                name
            )
