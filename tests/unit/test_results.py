"""Tests that results are saved and loaded unchanged, and that a damaged file gives one sentence and
no traceback.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import sys
import typing
from collections.abc import Iterator
from typing import Any, get_args, get_origin

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import minimize_scalar
from scipy.special import xlogy
from scipy.stats import binomtest

from robustviz import registry
from robustviz.attacks import PGD
from robustviz.runs import folder
from robustviz.stats import mcnemar, mean_interval, share_interval, t_quantile, tango, wilson
from robustviz.training.evaluation import Evaluation, Finding, attack_name, pack, paired, unpack
from robustviz.training.ladder import best_ladder, climb, headline, ladders, worst
from robustviz.types import UserError
from robustviz.views.attack.result import Adversarial
from robustviz.views.result import Result

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
    """An end p of the interval lies where k/n is z standard errors away, computed at p."""
    for k, n in ((3, 17), (100, 130), (1, 1000)):
        for p in wilson(k, n):
            assert abs(k / n - p) / (p * (1 - p) / n) ** 0.5 == pytest.approx(1.959964)


def test_wilson_of_nothing_is_everything() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 13, 40, 1000, 100_000])
def test_a_means_interval_is_students_for_however_few_values(n: int) -> None:
    values = np.random.default_rng(n).normal(3, 2, n)
    for level in (0.95, 1 - 0.05 / 6):
        low, high = stats.t.interval(level, n - 1, loc=values.mean(), scale=stats.sem(values))
        assert mean_interval(values, level) == pytest.approx((values.mean(), low, high), rel=1e-9)
    assert mean_interval(values.tolist()) == mean_interval(values)


def test_the_interval_of_shares_stays_where_shares_are() -> None:
    assert share_interval([0.5, 0.6]) == pytest.approx((0.55, 0, 1))
    assert share_interval([0.5, 0.51, 0.52]) == mean_interval([0.5, 0.51, 0.52])
    assert share_interval([0.3]) == (0.3, -np.inf, np.inf)


def test_two_values_reach_twelve_standard_errors() -> None:
    assert mean_interval([0.0, 2.0]) == pytest.approx(
        (1, 1 - 12.706204736432095, 1 + 12.706204736432095), rel=1e-8
    )
    assert t_quantile(10**9) == pytest.approx(1.959964, abs=1e-6) and t_quantile(0) == np.inf


def test_one_value_says_nothing_of_its_mean_equal_ones_everything_and_none_is_a_sentence() -> None:
    assert mean_interval([0.3]) == (0.3, -np.inf, np.inf)
    assert mean_interval([0.25] * 4) == (0.25, 0.25, 0.25)
    with pytest.raises(UserError, match="no mean of no values"):
        mean_interval([])


@pytest.mark.parametrize("level", [0, 1, -1, 2, 95, np.nan, np.inf, "0.95", None, True])
def test_a_level_is_between_nothing_and_all(level: object) -> None:
    for values in ([0.0, 1.0], [1.0]):
        with pytest.raises(UserError, match=r"level=.* must be between 0 and 1"):
            mean_interval(values, level)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.ones((2, 3)), r"array of shape \(2, 3\)"),
        ([[1.0], [2.0]], r"shape \(2, 1\)"),
        ("12", "this is a str"),
        (["1", "2"], "this is a list"),
        (None, "this is a NoneType"),
        (3.0, "this is a float"),
        ([None, 1.0], "this is a list"),
        ([[1.0], [1.0, 2.0]], "this is a list"),
        ([1j, 2j], "this is a list"),
        ([1.0, np.nan, np.inf], "2 of 3 values are NaN or infinite"),
        ([np.nan], "1 of 1"),
        (np.zeros(0), "no values"),
    ],
)
def test_what_has_no_mean_is_one_clear_sentence(values: object, says: str) -> None:
    with pytest.raises(UserError, match=says):
        mean_interval(values)  # type: ignore[arg-type]


def test_numbers_of_any_kind_have_a_mean() -> None:
    wanted = mean_interval([1.0, 2.0, 4.0])
    for values in (
        [1, 2, 4],
        (1, 2, 4),
        np.array([1, 2, 4]),
        torch.tensor([1, 2, 4]),
        torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64, requires_grad=True),
        [np.float64(1), torch.tensor(2.0), 4],
        torch.tensor([1.0, 2.0, 4.0]),
    ):
        assert mean_interval(values) == pytest.approx(wanted, rel=1e-12)  # type: ignore[arg-type]
    assert mean_interval([0.0, 2.0], np.float64(0.95)) == mean_interval([0.0, 2.0])
    assert mean_interval(torch.ones(3, dtype=torch.bfloat16))[0] == 1  # type: ignore[arg-type]


def test_without_scipy_an_interval_is_one_clear_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.special", None)
    with pytest.raises(UserError, match="pip install scipy"):
        mean_interval([0.0, 1.0])
    assert mean_interval([1.0])[0] == 1


# The paired difference. For the table (1, 1, 7, 12) of Bentur et al. 2009, Fagerland, Lydersen and
# Laake 2014 give −0.517 to −0.026 as Tango's interval and 0.070 as McNemar's exact p.


def test_tango_has_its_published_value() -> None:
    assert tango(1, 7, 21) == pytest.approx((-0.517, -0.026), abs=5e-4)
    assert mcnemar(1, 7) == pytest.approx(0.070, abs=5e-4)


def slow_score(delta: float, b: int, c: int, n: int) -> float:
    """Tango's statistic, with the most likely q found by a numerical search instead of the
    formula.
    """
    low, high = max(0.0, -delta), (1 - delta) / 2
    found = minimize_scalar(
        lambda q: -(xlogy(b, q + delta) + xlogy(c, q) + xlogy(n - b - c, 1 - 2 * q - delta)),
        bounds=(low, high),
        options={"xatol": 1e-12},
    )
    return float((b - c - n * delta) / (n * (2 * found.x + delta * (1 - delta))) ** 0.5)


@pytest.mark.parametrize(
    ("b", "c", "n"), [(1, 7, 21), (40, 20, 160), (150, 86, 1600), (12, 0, 40), (3, 3, 10)]
)
def test_tangos_ends_are_where_the_score_test_begins_to_reject(b: int, c: int, n: int) -> None:
    low, high = tango(b, c, n)
    assert slow_score(low, b, c, n) == pytest.approx(1.959964, abs=1e-4)
    assert slow_score(high, b, c, n) == pytest.approx(-1.959964, abs=1e-4)


@pytest.mark.parametrize(("b", "c", "n"), [(60, 40, 400), (5, 30, 300), (100, 100, 1000)])
def test_tango_agrees_with_the_bootstrap(b: int, c: int, n: int) -> None:
    pairs = np.array([1] * b + [-1] * c + [0] * (n - b - c))
    drawn = np.random.default_rng(0).choice(pairs, (4000, n)).mean(axis=1)
    assert tango(b, c, n) == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.008)


def test_tango_excludes_nothing_exactly_where_mcnemars_test_rejects() -> None:
    for b, c in itertools.product(range(30), repeat=2):
        low, high = tango(b, c, 60)
        assert (low > 0 or high < 0) == ((b - c) ** 2 > 1.959964**2 * (b + c))
        assert -1 <= low <= (b - c) / 60 <= high <= 1
        assert tango(c, b, 60) == pytest.approx((-high, -low), abs=1e-12)


def test_the_difference_of_nothing_is_anything() -> None:
    assert tango(0, 0, 0) == (-1.0, 1.0) and mcnemar(0, 0) == 1.0
    # The end of the interval is z²/(n + z²).
    assert tango(0, 0, 100) == pytest.approx((-0.037, 0.037), abs=1e-4)
    assert tango(7, 0, 7)[1] == pytest.approx(1)


def test_mcnemar_is_the_binomial_test() -> None:
    for b, c in [*itertools.product(range(12), repeat=2), (300, 200), (2000, 2100)]:
        if b + c:
            assert mcnemar(b, c) == pytest.approx(binomtest(b, b + c).pvalue, rel=1e-9)


def leaves(cls: type) -> Iterator[type]:
    for sub in cls.__subclasses__():
        if sub.__module__.startswith("robustviz"):
            yield sub
            yield from leaves(sub)


def sample(hint: Any) -> Any:
    """Returns a value of a field's type. Whatever a result may contain must be the same after
    saving and loading.
    """
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
    if origin is list:
        return [sample(args[0])]
    return {int: 3, float: 0.25, str: "ünï", bool: True}[hint]


@pytest.mark.parametrize("cls", list(leaves(Result)))
def test_a_result_survives_its_file(cls: type[Result]) -> None:
    hints = typing.get_type_hints(cls)
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
    return Adversarial(
        x=x,
        x_adv=1 - x,
        y=2,
        probs=np.ones(4) / 4,
        probs_adv=np.eye(4)[1],
        eps=0.1,
        distance=0.09,
        meta={"run": "a"},
    )


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
        attack={"key": "pgd", "eps": 0.15},
        eps=0.15,
        n=360,
        clean_k=350,
        robust_k=170,
        seed=3,
        split="test",
        seconds=1.5,
        device="cpu",
        doctor=(Finding("budget", True, 0.15, "Fine."), Finding("range", False, 1.2, "Not fine.")),
        key="abc",
    )


def test_an_evaluation_survives_json() -> None:
    assert Evaluation.from_json(json.loads(json.dumps(evaluation().to_json()))) == evaluation()


def test_an_evaluation_says_fractions_and_intervals_of_what_it_counted() -> None:
    written = evaluation().to_json()
    assert written["robust_acc"] == 170 / 360 and written["clean_acc"] == 350 / 360
    assert written["robust_interval"] == pytest.approx([0.421218, 0.523813], abs=2e-6)
    assert written["clean_interval"] == list(wilson(350, 360))
    assert not evaluation().ok and dataclasses.replace(evaluation(), doctor=()).ok


def test_an_evaluation_takes_counts_and_not_fractions_from_its_file() -> None:
    assert (
        Evaluation.from_json(evaluation().to_json() | {"robust_acc": 1.0}).robust_acc == 170 / 360
    )


@pytest.mark.parametrize("wrong", [{}, {"n": 3}, {"doctor": [{"nonsense": 1}]}, {"doctor": 3}])
def test_a_damaged_evaluation_is_one_clear_sentence(wrong: dict[str, Any]) -> None:
    base = evaluation().to_json() if "doctor" in wrong else {}
    with pytest.raises(UserError, match=r"eval\.json"):
        Evaluation.from_json(base | wrong)


@pytest.mark.parametrize("n", [1, 7, 8, 9, 360])
def test_verdicts_survive_their_hex_digits(n: int) -> None:
    right = np.random.default_rng(n).random(n) < 0.5
    assert np.array_equal(unpack(pack(right), n), right) and len(pack(right)) == 2 * -(-n // 8)


@pytest.mark.parametrize("digits", ["zz", "0", "00" * 44, "00" * 46, 3])
def test_damaged_verdicts_are_one_clear_sentence(digits: Any) -> None:
    with pytest.raises(UserError, match=r"eval\.json"):
        unpack(digits, 360)


# Names of attacks.


def test_an_attack_with_its_own_settings_has_a_plain_name() -> None:
    names = [
        attack_name(registry.encode(registry.get("attack", key)()), 10)
        for key in registry.keys("attack")
    ]
    assert not [name for name in names if "(" in name or "?" in name] and len(set(names)) == len(
        names
    )


@pytest.mark.parametrize(
    ("attack", "classes", "name"),
    [
        ({"key": "pgd", "steps": 20, "restarts": 1, "norm": "linf"}, 10, "PGD-20"),
        ({"key": "pgd", "steps": 100, "restarts": 5}, 10, "PGD-100×5"),
        ({"key": "fgsm", "norm": "l2", "start": "zero"}, 10, "FGSM (ℓ2)"),
        (
            {"key": "apgd", "steps": 100, "loss": "dlr", "targets": 9},
            10,
            "APGD-DLR-100 (9 targets)",
        ),
        ({"key": "square", "queries": 200}, 10, "Square-200"),
        ({"key": "autoattack"}, 10, "AutoAttack"),
        ({"key": "autoattack"}, 100, "AutoAttack"),
        ({"key": "autoattack"}, 5, "AutoAttack (4 targets)"),
        (
            {"key": "pgd", "steps": 20, "step_size": 0.01, "start": "zero"},
            10,
            "PGD-20 (step_size 0.01, start zero)",
        ),
        ({"key": "newer", "depth": 3}, 10, "newer (depth 3)"),
    ],
)
def test_an_attack_has_a_name_in_words(attack: dict[str, Any], classes: int, name: str) -> None:
    assert attack_name(attack, classes) == name


def test_an_attack_that_is_not_shipped_has_its_label(unplugged: None) -> None:
    assert attack_name({"key": "heavy"}) == "heavy"

    @registry.register("attack/heavy")
    class Heavy(PGD):
        label, text = "Heavy {PGD}", "A test."

    assert attack_name(registry.encode(Heavy())) == "Heavy {PGD} (steps 10)"


def test_no_setting_of_an_attack_is_hidden_by_its_name() -> None:
    other: dict[str, Any] = {
        "start": "gauss",
        "norm": "l2",
        "loss": "dlr",
        "step_size": 0.01,
        "targeted": True,
        "decay": 0.25,
    }
    for key in registry.keys("attack"):
        plain = registry.encode(registry.get("attack", key)())
        for name in plain.keys() - {"key", "eps"}:
            value = other.get(name, 7)
            assert value != plain[name] and attack_name(plain | {name: value}) != attack_name(
                plain
            ), (key, name)


# Pairs.


def measured(
    robust: NDArray[np.bool_], clean: NDArray[np.bool_] | None = None, **more: Any
) -> Evaluation:
    clean = np.ones(len(robust), bool) if clean is None else clean
    made = Evaluation(
        attack={"key": "pgd", "steps": 20, "eps": 0.1},
        eps=0.1,
        n=len(robust),
        clean_k=int(clean.sum()),
        robust_k=int(robust.sum()),
        seed=0,
        split="test",
        seconds=1.0,
        device="cpu",
        clean_right=pack(clean),
        robust_right=pack(robust),
        images="abc",
        classes=10,
    )
    return dataclasses.replace(made, **more)


def test_pairs_are_counted_as_by_hand() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random(150) < 0.7, rng.random(150) < 0.5
    found = paired(measured(first), measured(second))
    assert found.first_only == sum(1 for a, b in zip(first, second, strict=True) if a and not b)
    assert found.second_only == sum(1 for a, b in zip(first, second, strict=True) if b and not a)
    assert found.difference == pytest.approx(first.mean() - second.mean())
    assert found.interval == tango(found.first_only, found.second_only, 150)
    back = paired(measured(second), measured(first))
    assert (back.first_only, back.second_only, back.p) == (
        found.second_only,
        found.first_only,
        found.p,
    )


@pytest.mark.parametrize(
    ("b", "c", "verdict"),
    [
        (30, 5, "more robust"),
        (5, 30, "less robust"),
        (30, 25, "not decided"),
        (0, 0, "not decided"),
    ],
)
def test_only_an_interval_without_zero_decides(b: int, c: int, verdict: str) -> None:
    first, second = np.zeros(200, bool), np.zeros(200, bool)
    first[:b], second[b : b + c] = True, True
    found = paired(measured(first), measured(second))
    assert found.verdict == verdict == found.to_json()["verdict"]
    sentence = found.sentence("run-a", "run-b")
    assert sentence.endswith(".") and "PGD-20" in sentence and "n = 200" in sentence
    assert (verdict in sentence) and ("is more robust than" in sentence) == (
        verdict == "more robust"
    )


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"eps": 0.2}, "ε"),
        ({"seed": 1}, "seed"),
        ({"split": "val"}, "split"),
        ({"images": "abd"}, "different images"),
        ({"attack": {"key": "fgsm"}}, "attack"),
        ({"attack": {"key": "pgd", "steps": 20, "eps": 0.1, "start": "zero"}}, "attack"),
        ({"robust_right": ""}, "evaluate the run again"),
        ({"n": 7, "robust_right": "ff", "clean_right": "ff"}, "n: 8 and 7"),
    ],
)
def test_what_was_not_measured_alike_is_not_compared(change: dict[str, Any], word: str) -> None:
    one = measured(np.ones(8, bool))
    with pytest.raises(UserError, match=word) as caught:
        paired(one, dataclasses.replace(one, **change))
    assert "\n" not in str(caught.value)


# Ladders.


def rungs(n: int = 120) -> list[Evaluation]:
    rng = np.random.default_rng(1)
    clean = rng.random(n) < 0.95
    robust = [rng.random(n) < share for share in (0.9, 0.8, 0.75)]
    keys = (
        {"key": "fgsm"},
        {"key": "pgd", "steps": 20},
        {"key": "pgd", "steps": 100, "restarts": 5},
    )
    return [
        measured(one, clean, attack=key, key=str(number))
        for number, (one, key) in enumerate(zip(robust, keys, strict=True))
    ]


def test_cumulative_k_counts_images_that_withstand_every_weaker_rung() -> None:
    made = rungs()
    found = climb(made)
    for number, rung in enumerate(found.rungs):
        brute = 0
        for i in range(120):
            brute += all(
                [made[0].right()[0][i], *(weaker.right()[1][i] for weaker in made[: number + 1])]
            )
        assert (
            rung.cumulative_k == brute
            and rung.rung == number + 1
            and rung.robust_k == made[number].robust_k
        )
    assert (
        found.robust_k == found.rungs[-1].cumulative_k
        and found.ordered
        and found.to_json()["robust_acc"] == found.robust_k / 120
    )
    assert [finding.name for finding in found.findings] == ["order"] * 3
    assert climb(found.rungs).rungs == found.rungs  # Applying it again changes nothing.


@pytest.mark.parametrize(
    ("n", "more", "ordered"), [(100, 2, True), (100, 3, False), (1000, 10, True), (1000, 11, False)]
)
def test_a_stronger_attack_may_leave_one_point_or_two_images_more(
    n: int, more: int, ordered: bool
) -> None:
    weak, strong = np.zeros(n, bool), np.zeros(n, bool)
    weak[:50], strong[: 50 + more] = True, True
    found = climb([measured(weak, attack={"key": "fgsm"}), measured(strong)])
    assert found.ordered == ordered == found.rungs[1].ok and found.rungs[0].ok
    assert ("Out of order: PGD-20" in found.verdict) != ordered and (
        found.rungs[1].verdict == "unreliable: order"
    ) != ordered


def test_each_rung_is_held_against_the_weakest_figure_before_it() -> None:
    def leaves(k: int) -> Evaluation:
        return measured(np.arange(100) < k)

    assert [
        finding.ok for finding in climb([leaves(60), leaves(50), leaves(52), leaves(54)]).findings
    ] == [True, True, True, False]


def test_fgsm_training_is_let_off_at_its_own_attack_only() -> None:
    clean, robust = np.arange(100) < 80, np.arange(100) < 95
    fgsm, pgd = measured(robust, clean, attack={"key": "fgsm"}), measured(robust, clean)
    assert [finding.ok for finding in climb([fgsm, pgd], "fgsm_at").findings] == [True, False]
    assert [finding.ok for finding in climb([fgsm, pgd], "pgd_at").findings] == [False, False]


def test_ladders_are_found_again_among_evaluations() -> None:
    found, other = (
        climb(rungs()),
        climb([dataclasses.replace(rung, eps=0.3) for rung in rungs()[:2]]),
    )
    alone = measured(np.ones(120, bool), seed=3)
    kept = [
        Evaluation.from_json(json.loads(json.dumps(one.to_json())))
        for one in (*reversed(found.rungs), alone, *other.rungs)
    ]
    assert ladders(kept) == [found, other]
    assert ladders([alone]) == []


CLIMBED = {  # The rungs' names in these tests, and their attacks.
    "fgsm": {"key": "fgsm"},
    "pgd": {"key": "pgd", "steps": 100, "restarts": 5},
    "cw": {"key": "cw", "steps": 100},
    "dlr": {"key": "apgd", "loss": "dlr", "steps": 100},
    "ce": {"key": "apgd", "loss": "ce", "steps": 100},
    "aa": {"key": "autoattack"},
}


def counts(**left: int) -> list[Evaluation]:
    """Returns rungs that leave the given numbers of 200 images right, always the first ones. 190
    clean images are right.
    """
    clean = np.arange(200) < 190
    return [measured(np.arange(200) < k, clean, attack=CLIMBED[name]) for name, k in left.items()]


@pytest.mark.parametrize(
    ("left", "wrong"),
    [
        # Another loss is not expected to be stronger.
        ({"fgsm": 150, "pgd": 126, "cw": 135, "aa": 119}, []),
        ({"fgsm": 150, "pgd": 126, "dlr": 135, "aa": 119}, []),
        ({"fgsm": 150, "cw": 120, "pgd": 135, "ce": 137, "aa": 119}, []),
        # A difference of two images can be chance.
        ({"fgsm": 150, "pgd": 126, "cw": 152, "aa": 119}, []),
        ({"fgsm": 150, "pgd": 126, "cw": 153, "aa": 119}, ["CW-100"]),
        ({"pgd": 126, "cw": 193}, ["CW-100"]),  # More images right than without an attack.
        ({"fgsm": 150, "cw": 130, "dlr": 133}, ["APGD-DLR-100"]),
        ({"fgsm": 150, "pgd": 126, "ce": 129}, ["APGD-CE-100"]),
        ({"fgsm": 150, "pgd": 126, "cw": 117, "aa": 119}, []),
        # AutoAttack leaves more right than another attack, although it should be the strongest.
        ({"fgsm": 150, "pgd": 126, "cw": 117, "aa": 120}, ["AutoAttack"]),
        ({"fgsm": 150, "pgd": 117, "cw": 126, "aa": 120}, ["AutoAttack"]),
    ],
)
def test_the_margin_rung_is_held_against_clean_images_and_fgsm_and_autoattack_against_all(
    left: dict[str, int], wrong: list[str]
) -> None:
    found = climb(counts(**left))
    assert [rung.printed for rung in found.rungs if not rung.ok] == wrong
    assert found.ordered == (not wrong)
    assert ("Out of order" in found.verdict) == bool(wrong)


@pytest.mark.parametrize(
    ("cw", "aa", "warned"),
    [(118, 117, [False, False]), (118, 116, [False, True]), (116, 116, [True, True])],
)
def test_five_points_less_than_pgd_are_a_warning(cw: int, aa: int, warned: list[bool]) -> None:
    found = climb(counts(fgsm=150, pgd=126, cw=cw, aa=aa))
    margins = [each for each in found.findings if each.name == "margin"]
    assert [each.warning for each in margins] == warned
    assert [each.value for each in margins] == [(126 - cw) / 2, (126 - aa) / 2]
    assert found.ordered and all(rung.ok for rung in found.rungs)  # The warning is not an error.
    assert ("overestimate this network" in found.verdict) == any(warned)
    assert found.rungs[-1].verdict == ("warning: margin" if warned[1] else "no fault found")
    assert climb(found.rungs).rungs == found.rungs  # Applying it again changes nothing.
    kept = [Evaluation.from_json(json.loads(json.dumps(one.to_json()))) for one in found.rungs]
    assert ladders(kept) == [found] and found.warnings == tuple(
        each.text for each in margins[-1:] if each.warning
    )


def test_the_margin_warning_counts_what_all_rungs_together_take() -> None:
    """CW leaves as many images right as PGD, but different ones."""
    pgd = np.arange(200) < 126
    cw = np.roll(pgd, 10)
    found = climb([measured(pgd, attack=CLIMBED["pgd"]), measured(cw, attack=CLIMBED["cw"])])
    assert found.rungs[1].cumulative_k == 116 and found.findings[-1].value == 5.0
    assert found.findings[-1].warning and found.ordered


def test_a_ladder_of_before_the_margin_rung_keeps_autoattack_last() -> None:
    old = climb(counts(fgsm=150, pgd=126, aa=119)).rungs
    new = climb([*old[:2], *counts(cw=120)]).rungs[2]
    assert (new.rung, old[2].rung) == (3, 3)
    (found,) = ladders([*old, new])
    assert [rung.printed for rung in found.rungs] == ["FGSM", "PGD-100×5", "CW-100", "AutoAttack"]
    assert best_ladder([*old, new], 0.1) == found and best_ladder(old, 0.2) is None


# Images that withstood every attack.


def test_worst_is_what_withstood_every_attack_on_the_same_images() -> None:
    rng = np.random.default_rng(3)
    clean = rng.random(120) < 0.95
    robust = [rng.random(120) < 0.8 for _ in range(3)]
    found = [
        measured(each, clean, attack={"key": key, "steps": 20, "eps": 0.1}, seed=seed)
        for each, key, seed in zip(robust, ("pgd", "cw", "pgd"), (0, 0, 5), strict=True)
    ]
    brute = sum(clean[i] and all(each[i] for each in robust) for i in range(120))
    for one in found:
        together = worst(found, one)
        assert together is not None and (together.k, together.n) == (brute, 120)
        assert together.attacks == ("PGD-20", "CW-20") and together.several
        assert f"{100 * brute / 120:.1f}% [" in together.text
    told = together.to_json()
    assert told["worst_acc"] == brute / 120 and told["worst_attacks"] == ["PGD-20", "CW-20"]
    assert told["n"] == 120 and told["images"] == "abc"
    assert tuple(told["worst_interval"]) == wilson(brute, 120)
    assert 0 < brute < min(one.robust_k for one in found)


@pytest.mark.parametrize(
    "other",
    [
        {"images": "def"},
        {"eps": 0.2},
        {"weights": "new"},
        {"attack": {"key": "pgd", "steps": 20, "eps": 0.1, "norm": "l2"}},
    ],
)
def test_what_met_other_images_or_another_network_is_not_put_together(
    other: dict[str, Any],
) -> None:
    one = measured(np.arange(100) < 60)
    apart = dataclasses.replace(measured(np.arange(100) >= 60), **other)
    alone = worst([one, apart], one)
    assert alone is not None and (alone.k, alone.several) == (60, False)
    assert headline([one, apart], 0.1) is None


def test_a_run_s_headline_is_of_the_images_that_met_most_attacks() -> None:
    few = climb(counts(fgsm=150, pgd=126, cw=120)).rungs
    many = [
        measured(np.arange(1000) < k, images="def", attack=attack)
        for k, attack in ((700, CLIMBED["fgsm"]), (650, CLIMBED["pgd"]))
    ]
    found = headline([*many, *few], 0.1)
    assert found is not None and (found.k, found.n) == (120, 200)
    assert found.attacks == ("FGSM", "PGD-100×5", "CW-100")
    assert found.beside(few[1]) == found.text
    assert found.beside(many[1]) == f"{found.text} PGD-100×5 was run on other images."
    two = headline([*many, *few[:2]], 0.1)
    assert two is not None and (two.k, two.n) == (650, 1000)
    assert headline([*many, *few], 0.3) is None and headline([], None) is None
    # An evaluation from a version that stored no verdict per image.
    assert worst([], evaluation()) is None


def test_few_images_are_warned_of() -> None:
    assert (
        "Only 99 images" in measured(np.ones(99, bool)).note
        and not measured(np.ones(100, bool)).note
    )


def test_evaluations_of_older_versions_can_be_read() -> None:
    new = {"clean_right", "robust_right", "images", "classes", "rung", "cumulative_k", "printed"}
    old = {name: value for name, value in evaluation().to_json().items() if name not in new}
    found = Evaluation.from_json(old)
    assert found == evaluation() and found.cumulative_k is None
    with pytest.raises(UserError, match="evaluate the run again"):
        climb([found])
    for path in folder.zoo().glob("*/eval.json"):
        assert all(
            Evaluation.from_json(entry).printed
            for entry in json.loads(path.read_text())["evaluations"]
        )
