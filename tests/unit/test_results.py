"""Results survive their files, and a damaged file is a sentence and not a traceback."""

from __future__ import annotations

import dataclasses
import io
import json
import typing
from collections.abc import Iterator
from typing import Any, get_args, get_origin

import numpy as np
import pytest

from robustviz import results
from robustviz.results import Adversarial, Evaluation, Finding, Result, wilson
from robustviz.types import UserError

# The Wilson score interval as scipy.stats.binomtest computes it.
WILSON = [
    (0, 10, 0.0, 0.277533),
    (10, 10, 0.722467, 1.0),
    (5, 10, 0.236593, 0.763407),
    (1, 20, 0.008881, 0.236131),
    (170, 360, 0.421218, 0.523813),
]


@pytest.mark.parametrize(("k", "n", "low", "high"), WILSON)
def test_wilson_has_its_known_values(k: int, n: int, low: float, high: float) -> None:
    assert wilson(k, n) == pytest.approx((low, high), abs=2e-6)


def test_wilson_ends_solve_its_equation() -> None:
    """An end p of the interval is where k/n lies z standard errors *of p* away."""
    for k, n in ((3, 17), (100, 130), (1, 1000)):
        for p in wilson(k, n):
            assert abs(k / n - p) / (p * (1 - p) / n) ** 0.5 == pytest.approx(1.959964)


def test_wilson_of_nothing_is_everything() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


def leaves(cls: type) -> Iterator[type]:
    for sub in cls.__subclasses__():
        if sub.__module__.startswith("robustviz"):
            yield sub
            yield from leaves(sub)


def sample(hint: Any) -> Any:
    """A value of a field's type; whatever a result may hold must come back from a file as it was."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is np.ndarray or hint is np.ndarray:
        kind = str(hint)
        return (
            np.array([[1, 0], [2, 3]])
            if "integer" in kind
            else np.array([[True, False]])
            if "bool" in kind
            else np.array([0.5, np.inf, -0.0])
        )
    if origin is dict or hint is dict:
        return {"run": "ä-1", "classes": ["a", "b"], "n": 3}
    if args and type(None) in args:
        return sample(args[0])
    if origin is typing.Literal:
        return args[0]
    return {int: 3, float: 0.25, str: "ünï", bool: True}[hint]


@pytest.mark.parametrize("cls", list(leaves(Result)))
def test_a_result_survives_its_file(cls: type[Result]) -> None:
    hints = typing.get_type_hints(cls, vars(results))
    made = cls(**{field.name: sample(hints[field.name]) for field in dataclasses.fields(cls)})
    back = cls.from_npz(made.to_npz())
    for field in dataclasses.fields(cls):
        mine, theirs = getattr(made, field.name), getattr(back, field.name)
        if isinstance(mine, np.ndarray):
            assert mine.dtype == theirs.dtype and np.array_equal(mine, theirs)
        else:
            assert mine == theirs and type(mine) is type(theirs)


def test_no_file_needs_a_pickle() -> None:
    with np.load(io.BytesIO(adversarial().to_npz()), allow_pickle=False) as file:
        assert all(file[name].dtype != object for name in file.files)


def adversarial() -> Adversarial:
    x = np.random.default_rng(0).random((3, 9, 7))
    return Adversarial(x=x, x_adv=1 - x, y=2, probs=np.ones(4) / 4, probs_adv=np.eye(4)[1], eps=0.1, distance=0.09, meta={"run": "a"})


def damaged() -> Iterator[object]:
    whole = adversarial().to_npz()
    yield pytest.param(b"", id="empty")
    yield pytest.param(b"not a file at all", id="text")
    yield pytest.param(b"\x93NUMPY" + bytes(50), id="half an array")
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    yield pytest.param(buffer.getvalue(), id="one array")
    for fields in (
        {"a": np.zeros(3)},
        {"json": np.array("[1"), "x": np.zeros(3)},
        {"json": np.array("[]")},
        {"json": np.array('{"nonsense": 1}')},
    ):
        buffer = io.BytesIO()
        np.savez(buffer, **fields)
        yield pytest.param(buffer.getvalue(), id=f"other arrays {list(fields)}")
    for share in (0.01, 0.3, 0.6, 0.9, 0.999):
        yield pytest.param(whole[: int(len(whole) * share)], id=f"first {share:.1%}")


@pytest.mark.parametrize("content", list(damaged()))
def test_damaged_bytes_are_one_clear_sentence(content: bytes) -> None:
    with pytest.raises(UserError, match="not a saved Adversarial") as caught:
        Adversarial.from_npz(content)
    assert "\n" not in str(caught.value)


def test_a_flipped_byte_anywhere_is_noticed_or_harmless() -> None:
    made = adversarial()
    whole = made.to_npz()
    for place in range(0, len(whole), 7):
        content = bytearray(whole)
        content[place] ^= 0xFF
        try:
            back = Adversarial.from_npz(bytes(content))
        except UserError:
            continue
        assert np.array_equal(back.x, made.x) and np.array_equal(back.x_adv, made.x_adv)


# Evaluations.


def evaluation() -> Evaluation:
    return Evaluation(
        attack={"key": "pgd", "eps": 0.15}, eps=0.15, n=360, clean_k=350, robust_k=170, seed=3, split="test", seconds=1.5, device="cpu",
        doctor=(Finding("budget", True, 0.15, "Fine."), Finding("range", False, 1.2, "Not fine.")), key="abc",
    )  # fmt: skip


def test_an_evaluation_survives_json() -> None:
    assert Evaluation.from_json(json.loads(json.dumps(evaluation().to_json()))) == evaluation()


def test_an_evaluation_says_fractions_and_intervals_of_what_it_counted() -> None:
    written = evaluation().to_json()
    assert written["robust_acc"] == 170 / 360 and written["clean_acc"] == 350 / 360
    assert written["robust_interval"] == pytest.approx([0.421218, 0.523813], abs=2e-6)
    assert written["clean_interval"] == list(wilson(350, 360))
    assert not evaluation().ok and dataclasses.replace(evaluation(), doctor=()).ok


def test_an_evaluation_takes_counts_and_not_fractions_from_its_file() -> None:
    assert Evaluation.from_json(evaluation().to_json() | {"robust_acc": 1.0}).robust_acc == 170 / 360


@pytest.mark.parametrize("wrong", [{}, {"n": 3}, {"doctor": [{"nonsense": 1}]}, {"doctor": 3}])
def test_a_damaged_evaluation_is_one_clear_sentence(wrong: dict[str, Any]) -> None:
    base = evaluation().to_json() if "doctor" in wrong else {}
    with pytest.raises(UserError, match=r"eval\.json"):
        Evaluation.from_json(base | wrong)
