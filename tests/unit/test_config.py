"""Tests the config of a training: the defaults, which source of a setting takes precedence, and
which settings are part of a run's name.
"""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest

from robustviz import registry
from robustviz.attacks import PGD
from robustviz.data import Folder
from robustviz.methods import PGDAT, TRADES, Standard
from robustviz.runs.folder import find_run
from robustviz.training import config as module, loop
from robustviz.training.config import TrainConfig, read_value
from robustviz.training.presets import LESSONS, PRESETS, PUBLISHED
from robustviz.types import UserError


def test_gaps_are_filled_at_once_from_the_data_set() -> None:
    config = TrainConfig(data="digits")  # type: ignore[arg-type]
    assert config.eps == 0.15 and config.net == "small_resnet" and config.select == "robust"
    gaps = {name for name, value in dataclasses.asdict(config).items() if value is None}
    assert gaps == {"init"}  # `init` None is a value of its own: new weights.
    assert TrainConfig(data="shapes").eps == 8 / 255  # type: ignore[arg-type]
    assert TrainConfig(method="standard").select == "clean"  # type: ignore[arg-type]


def test_without_a_preset_methods_are_compared_like_for_like() -> None:
    from_scratch = [
        key for key in registry.keys("method") if not registry.get("method", key).recipe
    ]
    assert set(registry.keys("method")) - set(from_scratch) == {"model_alignment"}
    for data in registry.keys("data"):
        try:
            recipes = [
                dataclasses.replace(
                    TrainConfig(data=data, method=key), method=Standard(), select="last"
                )
                for key in from_scratch
            ]  # type: ignore[arg-type]
        except UserError:  # The data set `folder` needs a path.
            continue
        assert all(recipe == recipes[0] for recipe in recipes)


@pytest.mark.parametrize(
    ("size", "batch", "lr"),
    [
        (8, 64, 0.1),
        (32, 64, 0.1),
        (64, 64, 0.1),
        (96, 28, 0.04375),
        (128, 16, 0.025),
        (200, 8, 0.0125),
        (224, 8, 0.0125),
    ],
)
def test_larger_images_come_in_smaller_batches_and_steps(size: int, batch: int, lr: float) -> None:
    made = TrainConfig.make(flags={"data": "folder:pictures"}, sets=[("data.size", str(size))])
    assert (made.batch_size, made.lr) == (batch, lr)
    assert made == TrainConfig(data=Folder(path="pictures", size=size))
    asked = TrainConfig.make(
        flags={"data": "folder:pictures"},
        sets=[("batch_size", "64"), ("lr", "0.1"), ("data.size", str(size))],
    )
    assert (asked.batch_size, asked.lr) == (64, 0.1)  # Settings of the user take precedence.
    assert TrainConfig.from_json(json.loads(json.dumps(asked.to_json()))) == asked


def test_every_source_of_larger_images_is_spared_and_the_small_ones_are_as_they_were() -> None:
    assert TrainConfig.make(flags={"data": "shapes"}, sets=[("data.size", "128")]).batch_size == 16
    assert (
        TrainConfig.make(
            "shapes-taster", sets=[("data.size", "128"), ("batch_size", "50")]
        ).batch_size
        == 50
    )
    for key in (
        "digits",
        "shapes",
        "mnist",
        "fashion_mnist",
        "cifar10",
        "cifar100",
        "svhn",
        "tiny_imagenet",
    ):
        made = TrainConfig(data=key)  # type: ignore[arg-type]
        assert (made.batch_size, made.lr) == (
            made.data.recipe["batch_size"],
            made.data.recipe["lr"],
        )


def test_a_dial_that_the_data_lacks_is_answered_with_what_there_is() -> None:
    for sets in ([("data.size", "32")], [("data.size", "32"), ("data", "digits")]):
        with pytest.raises(UserError, match="no settings of its own"):
            TrainConfig.make(sets=sets)
    with pytest.raises(UserError, match=r"Did you mean data\.size"):
        TrainConfig.make(flags={"data": "shapes"}, sets=[("data.sise", "32")])


def test_zero_is_a_value_and_not_a_gap() -> None:
    config = TrainConfig(eps=0.0, lr=0.0, n_train=0)
    assert (config.eps, config.lr, config.n_train) == (0.0, 0.0, 0)


def test_config_survives_json() -> None:
    config = TrainConfig(
        data="shapes",
        method=TRADES(beta=2, attack=PGD(steps=3, eps=0.1)),
        eps=0.05,
        ema=0.9,
        seed=7,
    )  # type: ignore[arg-type]
    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"eps": 8, "method": "pgd_at"}, "8/255"),
        ({"eps": 8, "method": "standard"}, "8/255"),
        ({"net": "smallcnn"}, "small_cnn"),
        ({"augment": "flop"}, "flip"),
        ({"data": "digitz"}, "digits"),
        ({"data": "digits:x"}, "takes no path"),
        ({"epochs": -1}, "out of range"),
        ({"lr": 1e9}, "out of range"),
        ({"device": "gpu"}, "auto, cpu, cuda"),
        ({"eposh": 3}, "epochs"),
        ({"method": "tradez"}, "trades"),
    ],
)
def test_bad_settings_are_refused_in_one_sentence(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        TrainConfig.make(flags=fields)
    assert caught.value.code == 2 and "\n" not in str(caught.value)


def test_an_l2_radius_may_be_larger_than_one_only_for_an_l2_attack() -> None:
    assert TrainConfig(method=PGDAT(attack=PGD(norm="l2")), eps=2.0).bound_method.attack.eps == 2.0


# Settings from the command line.


def test_precedence_is_data_then_preset_then_flags_then_sets() -> None:
    assert TrainConfig.make(flags={"data": "shapes"}).epochs == 20
    assert TrainConfig.make("shapes-taster").epochs == 12
    assert TrainConfig.make("shapes-taster", {"epochs": 4}).epochs == 4
    assert TrainConfig.make("shapes-taster", {"epochs": 4}, [("epochs", "3")]).epochs == 3
    # A flag that was not given.
    assert TrainConfig.make("shapes-taster", {"epochs": None}).epochs == 12
    assert (
        TrainConfig.make(
            "cifar10-trades", sets=[("attack.step_size", "0.01")]
        ).method.attack.step_size
        == 0.01
    )  # type: ignore[attr-defined]
    assert TrainConfig.make(sets=[("seed", "1"), ("seed", "2")]).seed == 2
    whole = TrainConfig.make(
        sets=[("attack.steps", "3"), ("method.attack", '{"key": "pgd"}'), ("attack.steps", "4")]
    )
    assert whole.method.attack.steps == 4  # type: ignore[attr-defined]


def test_attack_stands_for_the_attack_of_the_method() -> None:
    made = TrainConfig.make(
        flags={"method": "trades"}, sets=[("attack.steps", "3"), ("method.beta", "1")]
    )
    assert made.method == TRADES(beta=1.0, attack=PGD(steps=3, start="gauss"))


def test_a_set_method_comes_before_its_own_settings() -> None:
    assert TrainConfig.make(sets=[("method.beta", "2"), ("method", "trades")]).method == TRADES(
        beta=2.0
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("0.5", 0.5),
        ("true", True),
        ("null", None),
        ("[1, 2]", [1, 2]),
        ('"a"', "a"),
        ("8/255", 8 / 255),
        ("1.5 / 3", 0.5),
        ("trades", "trades"),
        ("a/b", "a/b"),
        ("/tmp/x", "/tmp/x"),
        ("", ""),
        (7, 7),
    ],
)
def test_a_typed_value_is_json_else_a_fraction_else_text(text: Any, value: Any) -> None:
    assert read_value(text) == value and type(read_value(text)) is type(value)


def test_typed_fractions_reach_the_config() -> None:
    assert (
        TrainConfig.make(
            sets=[("eps", "8/255"), ("attack.step_size", "2/255")]
        ).method.attack.step_size
        == 2 / 255
    )  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="number"):
        TrainConfig.make(sets=[("eps", "1/0")])


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("attack.stepz", "method.attack.steps"),
        ("bach_size", "batch_size"),
        ("method.attak.steps", "method.attack"),
    ],
)
def test_an_unknown_path_is_answered_with_the_nearest(path: str, near: str) -> None:
    with pytest.raises(UserError, match=f"Did you mean {near}") as caught:
        TrainConfig.make(sets=[(path, "1")])
    assert caught.value.code == 2


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_builds_and_keeps_its_promises(name: str) -> None:
    made = TrainConfig.make(name)
    for path, value in PRESETS[name].settings.items():
        found: Any = made
        for part in path.split("."):
            found = getattr(found, part)
        assert getattr(found, "key", found) == value


@pytest.mark.long
@pytest.mark.parametrize("name", LESSONS)
def test_every_lesson_could_begin(name: str) -> None:
    loop.check(TrainConfig.make(name))


def test_a_published_recipe_says_where_it_differs_and_a_lesson_claims_no_unmeasured_time() -> None:
    for name, preset in PRESETS.items():
        assert (
            ("Differs:" in preset.text)
            == ("for a GPU" in preset.text)
            == (name in PUBLISHED)
            == (name not in LESSONS)
        ), name
        assert "minute" not in preset.text or name == "shapes-taster"


def test_presets_of_the_papers_are_the_papers() -> None:
    part, svhn = TrainConfig.make("cifar10-part"), TrainConfig.make("svhn-part")
    assert (part.eps, part.method.eps_low, part.method.attack.steps) == (8 / 255, 7 / 255, 10)
    assert part.method.warmup * part.epochs == 20  # type: ignore[attr-defined, operator]
    assert (part.lr, part.momentum, part.weight_decay, part.batch_size) == (0.01, 0.9, 2e-4, 128)
    assert (svhn.method.attack.step_size, svhn.weight_decay, svhn.augment) == (
        1 / 255,
        3.5e-3,
        "none",
    )  # type: ignore[attr-defined]
    fast = TrainConfig.make("cifar10-fast-at").bound_method
    assert fast.attack.start == "uniform" and fast.attack.default_step(8 / 255) == pytest.approx(
        10 / 255
    )  # type: ignore[attr-defined]
    assert TrainConfig.make("cifar10-trades").net == "wrn_34_10"
    four = [
        TrainConfig.make(f"digits-supcon{end}").method for end in ("-ce", "", "-margin", "-all")
    ]
    assert [(method.supcon_weight, method.margin_weight) for method in four] == [
        (0, 0),
        (0.5, 0),
        (0, 0.5),
        (0.5, 0.5),
    ]  # type: ignore[attr-defined]
    assert TrainConfig.make("digits-supcon-ce").method.contrasts is False


def test_an_unknown_preset_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="Did you mean digits-trades"):
        TrainConfig.make("digits-trade")


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        ("stepp", "Did you mean step"),
        ("@1/2", "no schedule"),
        ("step@", "not a number"),
        ("step@x", "not a number"),
        ("step@1/0", "not a number"),
        ("step@nan", "finite"),
        *[
            (schedule, "increasing fractions of the training between 0 and 1")
            for schedule in (
                "step@75,90",
                "step@3/4,1/2",
                "step@1/2,1/2",
                "step@0,1/2",
                "cyclic@1",
                "cyclic@1/4,1/2",
                "cosine@1/2",
                "constant@1/2",
            )
        ],
    ],
)
def test_a_schedule_that_is_none_is_one_clear_sentence(schedule: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        TrainConfig.make(sets=[("schedule", schedule)])
    assert caught.value.code == 2


def test_a_schedule_is_typed_as_it_is_said() -> None:
    config = TrainConfig.make(sets=[("schedule", "step@74/120,89/120")])
    assert config.schedule == "step@74/120,89/120"
    assert TrainConfig.from_json(config.to_json()) == config
    assert TrainConfig(schedule=None).run_id == TrainConfig(schedule="cyclic").run_id


# The name of a run.


def test_run_id_is_plain_and_short_for_every_data_set_method_and_net() -> None:
    for method in registry.keys("method"):
        for net in registry.keys("net"):
            name = TrainConfig(data="shapes", method=method, net=net, seed=2**31 - 1).run_id
            assert re.fullmatch(r"[a-z0-9-]{1,64}", name), name
            assert name.startswith(f"shapes-{method}-{net}-s2147483647".replace("_", "-")[:50])


def test_run_id_depends_on_everything_but_where_it_runs() -> None:
    base = TrainConfig()
    assert dataclasses.replace(base, threads=base.threads + 1, device="cpu").run_id == base.run_id
    assert dataclasses.replace(base, device="cuda").run_id == base.run_id
    other: dict[str, Any] = {
        "data": "shapes",
        "method": "trades",
        "net": "small_cnn",
        "eps": 0.1,
        "n_train": 100,
        "epochs": 3,
        "batch_size": 32,
        "lr": 0.2,
        "momentum": 0.8,
        "weight_decay": 0.1,
        "schedule": "step",
        "augment": "crop",
        "ema": 0.5,
        "precision": "bf16",
        "seed": 1,
        "snapshots": 2,
        "select": "clean",
        "init": "another",
        "patience": 3,
    }
    assert set(other) == {field.name for field in dataclasses.fields(base)} - set(module.WHERE)
    names = [
        base.run_id,
        *(dataclasses.replace(base, **{name: value}).run_id for name, value in other.items()),
    ]
    deep = registry.with_value(base, "method.attack.steps", 3).run_id
    assert len({*names, deep}) == len(other) + 2


def test_run_id_does_not_depend_on_whether_a_default_was_typed() -> None:
    base = TrainConfig()
    assert (
        TrainConfig(eps=base.eps, epochs=base.epochs, net=base.net, lr=base.lr).run_id
        == base.run_id
    )


def test_a_missing_gpu_is_one_clear_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.torch.cuda, "is_available", lambda: False)
    assert TrainConfig().on_this_machine(find_run).device == "cpu"
    with pytest.raises(UserError, match="no usable CUDA"):
        TrainConfig(device="cuda").on_this_machine(find_run)
    monkeypatch.setattr(module.torch.cuda, "is_available", lambda: True)
    assert (
        TrainConfig().on_this_machine(find_run).device == "cuda"
        and TrainConfig(device="cpu").on_this_machine(find_run).device == "cpu"
    )
    monkeypatch.setattr(module.torch.cuda, "device_count", lambda: 2)
    assert TrainConfig(device="cuda:1").on_this_machine(find_run).device == "cuda:1"
    with pytest.raises(UserError, match="no cuda:2: its GPUs are cuda:0 to cuda:1"):
        TrainConfig(device="cuda:2").on_this_machine(find_run)
    with pytest.raises(UserError, match="no device called 'cuda:x'"):
        TrainConfig(device="cuda:x")


def test_a_method_flag_over_a_preset_drops_the_settings_of_the_presets_method() -> None:
    config = TrainConfig.make("cifar10-trades", {"method": "pgd_at"})
    assert config.method == PGDAT() and config.epochs == 76
    assert TrainConfig.make("cifar10-part", None, [("method", "trades")]).method == TRADES()


def test_an_l2_radius_above_one_is_fine_once_the_norm_is_l2() -> None:
    config = TrainConfig.make(
        None, {"data": "digits", "method": "pgd_at", "eps": 1.5}, [("attack.norm", "l2")]
    )
    assert config.eps == 1.5 and config.method.attack.norm == "l2"
