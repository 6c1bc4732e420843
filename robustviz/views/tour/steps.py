"""Makes the steps of the tour from shipped results for two networks on shapes. So all numbers in
the steps were measured, and torch is not needed.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from robustviz.runs import folder
from robustviz.runs.folder import Run
from robustviz.runs.naming import method_label, unusual
from robustviz.stats import tango
from robustviz.training.evaluation import paired
from robustviz.types import UserError, eps_text
from robustviz.views import pack
from robustviz.views.attack import screen_figures
from robustviz.views.attack.result import Answers, AnswersSpec, AttackLevels, AttackLevelsSpec
from robustviz.views.attention import overlay
from robustviz.views.attention.result import AttentionLevelsSpec, OverlapSpec
from robustviz.views.budget import scene
from robustviz.views.budget.result import family
from robustviz.views.compare import board, scores
from robustviz.views.result import ProbeSpec, Result
from robustviz.views.screen import Control, Screen
from robustviz.views.tour import background
from robustviz.views.tour.step import Step, choices

R = TypeVar("R", bound=Result)

DATA = "shapes"
SPANS = ((1, 2), (3, 8), (9, 16))  # grey levels: the ranges to guess from


def steps(a: str, b: str) -> list[Step]:
    """The seven steps for the shipped networks with ids `a` (no defence) and `b` (with a defence).
    Raises UserError if a network or a shipped result that the steps need is missing.
    """
    runs = {"a": folder.open_model(a), "b": folder.open_model(b)}
    index, eps = int(pack.images(DATA).index[0]), runs["b"].eps
    names = {side: f"{side.upper()} {method_label(run.method_key)}" for side, run in runs.items()}
    level = round(255 * eps)
    levels = {
        names[side]: _known(run, AttackLevelsSpec(index, eps=eps)) for side, run in runs.items()
    }
    answers = {names[side]: _known(run, AnswersSpec(eps)) for side, run in runs.items()}
    first = levels[names["a"]]
    alone, untouched = {names["a"]: first}, screen_figures.untouched(names["a"], first)
    control = Control(
        "ε, the most that a pixel may change",
        [str(each) for each in first.levels],
        0,
        "eps",
        unit="/255",
    )
    attacked = _attacked(alone, {names["a"]: answers[names["a"]]}, control, 0)
    kept = {side: int(answers[name].k[answers[name].nearest(eps)]) for side, name in names.items()}
    clean, fooled = _fooled(answers[names["a"]], eps)
    n, where = answers[names["a"]].n, f"data={DATA}&img={index}"
    return [
        _see(first, untouched, where),
        _predict(first, untouched, attacked, where),
        _count(
            "attack",
            "Attack",
            f"Now {n} pictures instead of one, each attacked with ε = {level}/255.",
            "On how many pictures is A still right?",
            (n, kept["a"]),
            f"A is right on {kept['a']} of {n}. The attack fools it on {fooled} of the {clean}"
            " pictures that it gets right untouched.",
            f"attack?{where}&eps={level}",
            _attacked(alone, {names["a"]: answers[names["a"]]}, control, level),
        ),
        _explain(
            runs["a"],
            {names["a"]: _known(runs["a"], AttentionLevelsSpec(index, eps=eps))},
            level,
            where,
        ),
        _count(
            "defend",
            "Defend",
            f"B was trained on attacked pictures ({method_label(runs['b'].method_key)}). It is"
            " attacked in the same way.",
            "On how many pictures is B still right?",
            (n, kept["b"]),
            f"B is right on {kept['b']} of {n}, A on {kept['a']}. Each has one training seed: with"
            " other seeds the numbers differ.",
            f"attack?{where}&eps={level}",
            _attacked(levels, answers, control, level),
        ),
        _compare(runs["a"], runs["b"]),
        background.step(),
    ]


def _fooled(answers: Answers, eps: float) -> tuple[int, int]:
    """How many images are right when clean, and on how many of these the attack at the measured ε
    nearest to `eps` fools the network.
    """
    clean, attacked = (answers.right[answers.nearest(radius)] for radius in (0.0, eps))
    return int(clean.sum()), int((clean & ~attacked).sum())


def _known(run: Run, spec: ProbeSpec[R]) -> R:
    found = pack.kept(run, spec)
    if found is None:
        raise UserError(f"The story pack has no result {spec.key} of {run.id}: run `make story`.")
    return found


def _attacked(
    levels: dict[str, AttackLevels], answers: dict[str, Any], control: Control, at: int
) -> Screen:
    places = list(next(iter(levels.values())).levels)
    place = places.index(at) if at in places else 0
    moved = dataclasses.replace(control, start=place)
    return screen_figures.screen(levels, answers, None, moved, place)


def _see(first: AttackLevels, screen: Screen, where: str) -> Step:
    names = list(first.meta["classes"])
    said, true = int(first.answers[0]), names[first.y]
    others = [name for name in names if name not in (true, names[said])][:2]
    options = sorted({names[said], true, *others})
    return Step(
        "see",
        "See",
        "A small network, A, was trained to classify drawn shapes. Here is one, untouched.",
        "Which class does A predict?",
        options,
        options.index(names[said]),
        f"A predicts {names[said]} with {first.probs[0, said]:.0%}. The picture shows a {true}.",
        f"attack?{where}&eps=0",
        screen,
    )


def _predict(first: AttackLevels, untouched: Screen, screen: Screen, where: str) -> Step:
    wrong = [
        int(level)
        for level, said in zip(first.levels, first.answers, strict=True)
        if said != first.y
    ]
    options = [*(f"{low} to {high}" for low, high in SPANS), "none of these"]
    fell = wrong[0] if wrong else 0
    right = next((at for at, (low, high) in enumerate(SPANS) if low <= fell <= high), len(SPANS))
    return Step(
        "predict",
        "Predict",
        "An attack may change every pixel by ε at most. A pixel has 256 grey levels.",
        "At which ε, in grey levels, is A first wrong?",
        options,
        right,
        f"A is first wrong at ε = {fell}/255: a change that few people would notice."
        if wrong
        else "A is right at every ε that was tried here.",
        f"attack?{where}&eps={fell}",
        dataclasses.replace(
            screen,
            answer=[
                f"At ε = {level}/255 A says {first.meta['classes'][said]}."
                for level, said in zip(first.levels, first.answers, strict=True)
            ],
        ),
        reveals=list(first.levels).index(fell) if wrong else None,
        before=untouched,
    )


def _count(
    key: str,
    title: str,
    intro: str,
    question: str,
    counted: tuple[int, int],
    told: str,
    address: str,
    screen: Screen,
) -> Step:
    options, right = choices(*counted)
    return Step(key, title, intro, question, options, right, told, address, screen)


def _explain(run: Run, levels: dict[str, Any], level: int, where: str) -> Step:
    """The step on how often the maximum of the class-activation map of A, which is `run`, lies on
    the object, clean and under attack. `levels`: the maps of one image at several ε, by the
    network's printed name; `level`: the ε shown first, in grey levels; `where`: data set and image,
    as the query of a page's address.
    """
    many = _known(run, OverlapSpec())
    first = next(iter(levels.values()))
    texts = [str(level) for level in first.levels]
    control = Control(
        "Strength of the attack, ε", texts, texts.index(str(level)), "eps", unit="/255"
    )
    before, after = (many.interval("pointing", row)[0] for row in (0, 1))
    gap = _gap(many)
    options = ["no difference shown", "less often", "more often"]
    right = 0 if gap[1] <= 0 <= gap[2] else 1 if gap[0] < 0 else 2
    return Step(
        "explain",
        "Explain",
        "A class-activation map shows where A finds its evidence: below, on one of"
        f" {len(many.index)} pictures. Untouched, its hottest spot lies on the object in"
        f" {before:.0%} of them.",
        "Is the hottest spot on the object more or less often under attack?",
        options,
        right,
        f"Under attack it lies there in {after:.0%}: {options[right]}. A map is evidence, not"
        " proof.",
        f"attention?{where}",
        overlay.screen(levels, control, many={next(iter(levels)): many}),
    )


def _gap(many: Any) -> tuple[float, float, float]:
    """The share of images whose map has its maximum on the object, attacked minus clean.
    Returns the difference and the ends of its 95% interval, paired by image.
    """
    before, after = (many.pointing[row] > 0.5 for row in (0, 1))
    gained, lost, n = int((after & ~before).sum()), int((before & ~after).sum()), len(before)
    return (gained - lost) / n, *tango(gained, lost, n)


def _compare(a: Run, b: Run) -> Step:
    """The step on what the defence costs in clean accuracy, from evaluations on the same images.
    Raises UserError if the networks have no such evaluations.
    """
    mine, theirs = a.evaluation(), b.evaluation()
    if mine is None or theirs is None:
        raise UserError("The two networks were not evaluated: run `make zoo`.")
    paired(mine, theirs)
    first, second = mine.right()[0], theirs.right()[0]
    gained, lost = int((second & ~first).sum()), int((first & ~second).sum())
    low, high = tango(gained, lost, mine.n)
    options = ["B is right on fewer", "no difference shown", "B is right on more"]
    right = 1 if low <= 0 <= high else 0 if high < 0 else 2
    counts = f"A is right on {mine.clean_k:,} of {mine.n:,}, B on {theirs.clean_k:,}"
    screen = _board(a, b)
    return Step(
        "compare",
        "Compare",
        "Does robustness cost accuracy? Both networks now classify untouched pictures.",
        "How does B compare with A on untouched pictures?",
        options,
        right,
        f"{counts}: {options[right]}." + _cost(),
        f"compare?data={DATA}",
        # the board counts fewer images, those that were attacked
        dataclasses.replace(screen, answer=[f"Untouched, {counts}.", *screen.answer[1:]]),
        reveals=0,
    )


def _cost() -> str:
    """A sentence on the smallest training ε at which networks lose clean accuracy, among networks
    that differ only in ε; empty if there is no such ε.
    """
    costs = scene.costly(family(DATA))
    if not len(costs):
        return ""
    return (
        f" Where only ε differs, networks trained with ε = {eps_text(costs[0])} or more are right"
        " on fewer untouched pictures."
    )


def _board(a: Run, b: Run) -> Screen:
    """The scoreboard of the shipped networks on shapes, with A and B marked.
    Raises UserError if none of them was evaluated.
    """
    shown = [run for run in folder.all_runs() if run.shipped and run.data_key == DATA]
    found = scores.board(shown)
    if found is None:
        raise UserError("The shipped networks were not evaluated: run `make zoo`.")
    names = {
        run.id: board.Name(
            " · ".join((method_label(run.method_key), *unusual(run), run.architecture)),
            method_label(run.method_key),
        )
        for run in shown
    }
    return board.first(found, names, a.id, b.id)
