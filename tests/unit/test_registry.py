"""Tests the registry of everything a person can choose: encoding and decoding, refusals, names."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

import pytest

from robustviz import registry
from robustviz.attacks import FGSM, PGD
from robustviz.methods import FGSMAT, PGDAT, TRADES
from robustviz.registry import Spec, option
from robustviz.training.config import TrainConfig
from robustviz.types import UserError


def every_class() -> Iterator[object]:
    for kind in registry.ROOMS:
        for name in registry.keys(kind):
            cls = registry.get(kind, name)
            if dataclasses.is_dataclass(cls):  # Networks are modules, not dataclasses.
                yield pytest.param(cls, id=f"{kind}/{name}")


every = pytest.mark.parametrize("cls", list(every_class()))


def another(field: dataclasses.Field[Any], hint: Any, value: Any) -> Any:
    """Returns another legal value of a field, or the same value if no other is known."""
    if get_origin(hint) is Literal:
        return next(option for option in get_args(hint) if option != value)
    if hint is bool:
        return not value
    if hint in (int, float) and not isinstance(value, bool):
        low, high = field.metadata.get("low"), field.metadata.get("high")
        step = 1 if hint is int else 0.25
        return value + step if high is None or value + step <= high else max(value - step, low or 0)
    return value


@every
def test_a_setting_survives_json_with_every_field_changed_in_turn(cls: Any) -> None:
    thing = cls()
    assert registry.decode(cls.kind, json.loads(json.dumps(registry.encode(thing)))) == thing
    for field in dataclasses.fields(cls):
        try:
            changed = dataclasses.replace(
                thing,
                **{
                    field.name: another(
                        field, registry.hints(cls)[field.name], getattr(thing, field.name)
                    )
                },
            )
        except UserError:  # Fields that are only valid together.
            continue
        back = registry.decode(cls.kind, json.loads(json.dumps(registry.encode(changed))))
        assert back == changed and type(getattr(back, field.name)) is type(
            getattr(changed, field.name)
        )
        assert (registry.key(changed) == registry.key(thing)) == (changed == thing)


@every
def test_every_field_has_help_for_its_form(cls: Any) -> None:
    for field in dataclasses.fields(cls):
        assert field.metadata.get("help"), f"{field.name} has no help text for its form"


@every
def test_key_is_plain_short_and_the_same_for_equal_settings(cls: Any) -> None:
    back = registry.decode(cls.kind, json.loads(json.dumps(registry.encode(cls()))))
    assert registry.key(back) == registry.key(cls())
    assert re.fullmatch(r"[a-z0-9-]{1,64}", registry.key(cls()))


@every
def test_an_unknown_field_is_refused_by_name(cls: Any) -> None:
    with pytest.raises(UserError, match="nonsense"):
        registry.decode(cls.kind, {"key": cls.key, "nonsense": 1})


def test_key_does_not_change_between_versions() -> None:
    assert registry.key({"attack": {"key": "pgd", "eps": 0.1}, "n": 10}) == "dict-c7830956d7ae"
    assert registry.key({"n": 10, "attack": {"eps": 0.1, "key": "pgd"}}) == "dict-c7830956d7ae"


def test_encoding_is_plain_json_with_the_key_inside() -> None:
    assert registry.encode(TRADES(beta=3, attack=PGD(eps=0.1)))["attack"]["key"] == "pgd"
    assert registry.encode({"a": (1, FGSM())})["a"][1]["key"] == "fgsm"


@pytest.mark.parametrize(
    ("kind", "wrong", "near"),
    [
        ("method", "trade", "trades"),
        ("attack", "pdg", "pgd"),
        ("data", "digit", "digits"),
        ("net", "smal_cnn", "small_cnn"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest(kind: str, wrong: str, near: str) -> None:
    with pytest.raises(UserError, match=f"Did you mean {near}") as caught:
        registry.get(kind, wrong)
    assert caught.value.code == 2 and "\n" not in str(caught.value)
    with pytest.raises(UserError, match=wrong):
        registry.decode(kind, {"key": wrong})


def test_a_mapping_without_key_and_a_thing_that_is_none_are_refused() -> None:
    for wrong in ({}, {"key": None}, {"key": 3}):
        with pytest.raises(UserError, match="There is no attack"):
            registry.decode("attack", wrong)


@pytest.mark.parametrize(
    ("cls", "fields", "words"),
    [
        (PGD, {"steps": "10"}, "steps='10' should be a whole number"),
        (PGD, {"steps": 2.5}, "whole number"),
        (PGD, {"steps": True}, "whole number"),
        (PGD, {"steps": 0}, "steps=0 is out of range for pgd: it must be 1 to 2000"),
        (PGD, {"steps": None}, "whole number"),
        (PGD, {"eps": "0.1"}, "should be a number"),
        (PGD, {"eps": float("nan")}, "not a finite number"),
        (PGD, {"eps": -0.1}, "at least 0"),
        (PGD, {"eps": 8}, "8/255"),
        (PGD, {"targeted": 1}, "true or false"),
        (PGD, {"start": "middle"}, "not one of uniform, gauss, zero"),
        (PGD, {"norm": "l1"}, "not one of linf, l2"),
        (TRADES, {"beta": float("inf")}, "finite"),
        (TRADES, {"attack": {"key": "fgsm"}}, "not a attack"),
        (TRADES, {"attack": "fgsm"}, "not a attack"),
        (TRADES, {"attack": 3}, "not a attack"),
        (FGSMAT, {"attack": {"key": "fgsm", "steps": 3}}, "steps"),
        (TrainConfig, {"seed": -1}, "out of range"),
        (TrainConfig, {"batch_size": 1}, "at least 2|2 to"),
    ],
)
def test_wrong_types_and_values_out_of_range_are_refused(
    cls: Any, fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words) as caught:
        registry.build(cls, fields)
    assert caught.value.code == 2 and "\n" not in str(caught.value)


def test_whole_floats_become_ints_and_ints_become_floats() -> None:
    made = registry.build(PGD, {"steps": 7.0, "eps": 1})
    assert made == PGD(steps=7, eps=1.0) and type(made.steps) is int and type(made.eps) is float


def test_a_value_at_its_bound_is_taken() -> None:
    assert PGD(steps=1).steps == 1 and PGD(steps=2000).steps == 2000 and TRADES(beta=0).beta == 0


def test_with_value_changes_one_setting_deep_inside_and_copies_the_rest() -> None:
    config = TrainConfig(method=TRADES())
    changed = registry.with_value(config, "method.attack.steps", 3)
    assert changed.method.attack.steps == 3 and config.method.attack.steps == 10
    assert dataclasses.replace(changed, method=TRADES()) == config


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("method.bta", "Did you mean method.beta"),
        ("method.attack.step", "Did you mean method.attack.steps"),
        ("methd", "Did you mean method"),
        ("seed.x", "no settings inside"),
    ],
)
def test_an_unknown_path_is_answered_with_the_nearest(path: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        registry.with_value(TrainConfig(method=TRADES()), path, 1)


def test_two_classes_cannot_hold_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    registry.keys("attack")
    monkeypatch.setattr(
        registry, "_table", {kind: dict(held) for kind, held in registry._table.items()}
    )
    with pytest.raises(ValueError, match="registered already"):
        registry.register("attack/pgd")(PGDAT)
    assert registry.get("attack", "pgd") is PGD
    # A module that is loaded again registers an equal class.
    assert registry.register("attack/pgd")(PGD) is PGD


def test_a_new_dataclass_is_all_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    registry.keys("attack")
    monkeypatch.setattr(
        registry, "_table", {kind: dict(held) for kind, held in registry._table.items()}
    )

    @registry.register("attack/mine")
    @dataclass(frozen=True)
    class Mine(Spec):
        sizes: tuple[int, ...] = option((1, 2), "Some numbers.")
        other: float | None = option(None, "Perhaps a number.", low=0)

    assert registry.keys("attack")[-1] == "mine"
    assert registry.decode("attack", json.loads(json.dumps(registry.encode(Mine((3,)))))) == Mine(
        (3,)
    )
    with pytest.raises(UserError, match="should be a list"):
        Mine(sizes=3)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="at least 0"):
        Mine(other=-1)
