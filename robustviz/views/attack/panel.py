"""Streamlit parts of the Attack page: settings, first screen, checks, class bars, smallest ε,
accuracy curve, single attack steps, and results by class.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from robustviz.export import Recipe
from robustviz.imports import load
from robustviz.runs import catalogue, folder
from robustviz.runs.naming import SEEDS
from robustviz.terms import term
from robustviz.training.evaluation import NAMES
from robustviz.training.ladder import best_ladder, headline
from robustviz.types import UserError, eps_text, grey_text
from robustviz.ui import cache, networks, shell, stage, widgets
from robustviz.ui.context import Context
from robustviz.views import pictures
from robustviz.views.attack import screen_figures
from robustviz.views.attack.result import (
    AccuracyCurve,
    AccuracyCurveSpec,
    Adversarial,
    AdversarialSpec,
    Answers,
    AnswersSpec,
    AttackLevels,
    AttackLevelsSpec,
    SmallestEps,
    SmallestEpsSpec,
    TrajectorySpec,
)
from robustviz.views.screen import Control

if TYPE_CHECKING:
    from collections.abc import Mapping

QUESTION = "How little does it take?"
MARKS = {"ok": "✓", "warning": "!", "unreliable": "✗"}  # printed before each of the doctor's checks
AIMS = {"any": "Any wrong class (untargeted)", "targeted": "A chosen class (targeted)"}


@dataclass(frozen=True)
class Choice:
    """The settings that the user has chosen on the page.

    `levels`: the spec of the attack on the displayed image at every ε; `answers`: that of the
    attacks on many test images; `control`: the slider for ε; `at`: the slider's position, an index
    into `levels.levels`.
    """

    levels: AttackLevelsSpec
    answers: AnswersSpec
    control: Control
    at: int

    @property
    def eps(self) -> float:
        """The chosen ε, in pixel units (pixels are in [0, 1])."""
        return self.levels.levels[self.at] / 255

    @property
    def one(self) -> AdversarialSpec:
        """The spec of the attack on the displayed image with the chosen ε only."""
        levels = self.levels
        return AdversarialSpec(
            levels.index, levels.attack, self.eps, levels.steps, levels.seed, levels.target
        )


def attacks() -> list[str]:
    """Returns the registry keys of the attacks to offer: those in `NAMES` and, if the module
    `robustviz.attacks` is already imported, all other registered ones. This function does not
    import that module, which would load torch.
    """
    if "robustviz.attacks" not in sys.modules:
        return list(NAMES)
    return list(dict.fromkeys((*NAMES, *load("robustviz.registry").keys("attack"))))


def called(key: str) -> str:
    """Returns the printed name of an attack without its settings, such as `PGD` for `pgd`."""
    return NAMES.get(key, key).partition("-{")[0]


def settings(here: Context) -> Choice:
    """Draw the settings and return what was chosen. The defaults replace invalid values in the
    page's address.
    """
    run = folder.open_model(here.a)
    known = attacks()
    kind = st.selectbox(
        "Attack",
        known,
        format_func=called,
        help=term("pgd"),
        **shell.linked("attack", "pgd", known),
    )
    aim, target = st.columns(2, vertical_alignment="bottom")
    wanted = aim.segmented_control(
        "Goal of the attack",
        list(AIMS),
        required=True,
        format_func=AIMS.__getitem__,
        help=term("targeted"),
        **shell.linked("aim", "any", AIMS),
    )
    names = list(run.classes)
    reached = target.selectbox(
        "Target class", names, disabled=wanted == "any", **shell.linked("target", names[0], names)
    )
    steps = st.number_input(
        "Number of steps (iterative attacks only)",
        1,
        100,
        help=term("pgd"),
        **shell.linked("steps", 10, range(1, 101)),
    )
    seed = st.number_input(
        "Seed of the random start",
        0,
        9999,
        help=term("seed"),
        **shell.linked("seed", 0, range(10_000)),
    )
    usual = float(catalogue.facts("data", run.data_key)["default_eps"] or run.eps)
    levels = AttackLevelsSpec(
        here.img,
        kind or "pgd",
        usual,
        int(steps),
        int(seed),
        names.index(reached) if wanted == "targeted" else -1,
    )
    control = Control(
        "ε, the most that a pixel may change",
        [str(level) for level in levels.levels],
        levels.levels.index(max(1, round(255 * usual))),
        "eps",
        term("epsilon"),
        "/255",
    )
    at = stage.position(control.key, control.values, control.start)
    shell.write_address()  # also here: a rerun of this fragment does not run the rest of the page
    return Choice(levels, AnswersSpec(usual), control, at)


def first(here: Context, chosen: Choice, row: DeltaGenerator) -> dict[str, AttackLevels]:
    """Draw the button that measures the accuracy at every ε (until that is measured), the first
    screen and, in `row` below it, the checks of each network (`doctor`) and the *Take home* menu.
    Returns the attacks on the displayed image at every ε, as a dict by the networks' names, such as
    `A PGD-AT`; a network that cannot be measured is left out.
    """
    found = widgets.measured(here, chosen.levels, "the image at every ε")
    if not found:
        return found
    answers = widgets.measured(here, chosen.answers, "every ε", "about 30 s")
    named = widgets.names(here)
    curves: dict[str, AccuracyCurve] = dict(answers)
    if len(curves) < len(found):  # shipped networks come with this curve
        kept = {name: cache.kept(named[name], AccuracyCurveSpec()) for name in found}
        curves = {name: answers.get(name) or curve for name, curve in kept.items() if curve}
    said = screen_figures.measured(*(networks.evaluations(run_id) for _, run_id in here.sides))
    screen = screen_figures.screen(found, curves, said, chosen.control, chosen.at)
    if here.a == here.b:
        screen = dataclasses.replace(screen, answer=["A and B are the same network."])
    stage.show("attack", dataclasses.replace(screen, sure=[*screen.sure, SEEDS]))
    with row:
        for name in found:
            doctor(name[:1], named[name], found[name], chosen.at)
        # the lines of Python in the menu draw curves of a single kind: `Answers` if there are any
        taken, spec = (answers, chosen.answers) if answers else (curves, AccuracyCurveSpec())
        runs = {name: named[name] for name in taken}
        recipe = Recipe(runs, spec, "accuracy_curve", {"here": chosen.eps})
        chart = (taken, recipe) if taken else None
        widgets.take_home("attack", QUESTION, screen, found, chosen.levels, chart)
    return found


def bars(found: Mapping[str, AttackLevels], chosen: Choice) -> None:
    """Draw for each network a bar chart of the softmax outputs before and after the attack with the
    chosen ε, and a sentence on what the attack did. The images and the perturbation can be
    downloaded.
    """
    figures = load("robustviz.views.attack.figures")
    columns = st.columns(2, gap="large")
    for column, (name, each) in zip(columns, found.items(), strict=False):
        result, side = _once(each, chosen.at), name[:1].lower()
        with column:
            st.markdown(f":{shell.side_colour(side)}[**{name}**]")
            added = pictures.delta(result.x, result.x_adv, each.levels[-1] / 255)
            sheet = pictures.sheet([result.x, result.x_adv, added], 192)
            frame = widgets.Frame(
                f"bars-{side}",
                replace(chosen.one, eps=result.eps),
                sentence(result, chosen.levels.target),
                sheet,
            )
            widgets.draw(figures.adversarial, result, frame, side=side)


def _once(levels: AttackLevels, at: int) -> Adversarial:
    """Returns `levels.at(at)`, the attack at a single radius. The same `levels` always give the
    same object, because figures are cached by the identity of their result.
    """
    return cache.made(lambda: levels.at(at), (levels,), "attack", at)


def sentence(result: Adversarial, target: int = -1) -> str:
    """Returns a text in Markdown on what the attack did to this image: the predictions before and
    after it, and the largest change of a pixel. `target`: the class that a targeted attack aimed
    at, −1 for an untargeted one.
    """
    names = result.meta["classes"]
    before, after = int(result.probs.argmax()), int(result.probs_adv.argmax())
    was, now = (
        f"{names[probs.argmax()]} ({probs.max():.0%})" for probs in (result.probs, result.probs_adv)
    )
    way = f"{names[before]} → {now}"  # an arrow, since classes may be numbers (digits)
    outcome = f"**{way}**: the attack does not change the prediction."
    if before != result.y:
        outcome = (
            f"Misclassified already without an attack: the prediction is **{was}**, the true"
            f" class {names[result.y]}. Attacked: **{now}**."
        )
    elif target not in (-1, result.y):
        outcome = (
            f"**{way}**. The target {'is' if after == target else 'is not'} reached"
            f" ({names[target]})."
        )
    elif result.eps == 0:
        outcome = f"**{was}**: at ε = 0 no pixel may change."
    elif after != result.y:
        outcome = f"**{way}**: this network was fooled."
    return f"{outcome} No pixel changed by more than {eps_text(result.distance)}."


def doctor(side: str, run_id: str, result: AttackLevels, at: int) -> None:
    """Draw a button for network `side` (A or B) that says how many checks failed and opens their
    list: whether the attack on this image with the radius at index `at` stayed in its ball and in
    [0, 1]; what the checks of the run's evaluation (`training.doctor`) found; and, if the run was
    evaluated under several attacks, their joint result with warnings.
    """
    distance, allowed = float(result.distance[at]), float(result.levels[at] / 255)
    near = distance <= allowed + 1e-6
    inside = bool(result.span[at, 0] >= 0 and result.span[at, 1] <= 1)
    run = folder.open_model(run_id)
    wrong = folder.fault(run)
    evaluation, found = None if wrong else run.evaluation(), networks.evaluations(run_id)
    together, climbed = headline(found, run.eps), best_ladder(found, run.eps)
    findings = evaluation.doctor if evaluation else ()
    warned = climbed.warnings if climbed else ()
    levels = ["ok" if right else "unreliable" for right in (near, inside)]
    levels += [*(finding.level for finding in findings), *["warning"] * len(warned)]
    count, hard, soft = len(levels), levels.count("unreliable"), levels.count("warning")
    verdict, icon = (
        (f"{hard} of {count} failed, result unreliable", ":material/error:")
        if hard
        else (
            f"{soft} of {count} {'gives a warning' if soft == 1 else 'give warnings'}",
            ":material/warning:",
        )
        if soft
        else (f"none of {count} failed", ":material/check_circle:")
    )
    with st.popover(
        f"Checks for {side}: {verdict}", icon=icon, type="tertiary", help=term("doctor")
    ):
        st.markdown(
            f"A passed check is not a proof.\n- {MARKS[levels[0]]} This image: change"
            f" {distance:.4f}, allowed {allowed:.4f}.\n- {MARKS[levels[1]]} This image: pixels"
            " within 0 to 1."
        )
        if wrong:
            st.markdown(shell.spoken(UserError(wrong)))
        if evaluation:
            st.markdown(
                f"At its evaluation, {evaluation.printed} at ε = {eps_text(evaluation.eps)}:\n"
                f"- {evaluation.n} images, seed {evaluation.seed}.\n"
                + "\n".join(f"- {MARKS[finding.level]} {finding.text}" for finding in findings)
            )
        if together:
            st.markdown(
                "\n".join(
                    (together.beside(evaluation), *(f"- {MARKS['warning']} {w}" for w in warned))
                )
            )


def histogram(here: Context) -> None:
    """Draw a histogram of the smallest ε that fools each of the first hundred test images, with a
    line for each network at the smallest ε that fools it on the displayed image.
    """
    spec, figures = SmallestEpsSpec(), load("robustviz.views.attack.figures")
    if results := widgets.measured(here, spec, "the smallest ε", "about 10 s"):
        own = {name: _own(result, here.img) for name, result in results.items()}
        words = [
            f"**{name}**: this image {_flip(own[name], result)}."
            for name, result in results.items()
        ]
        widgets.draw(
            figures.smallest_eps,
            results,
            widgets.Frame("histogram", spec, words="  \n".join(words)),
            here=[eps if math.isfinite(eps) else None for eps in own.values()],
        )


def _own(result: SmallestEps, img: int) -> float:
    """Returns the smallest ε at which the network is fooled on the image with index `img`, in pixel
    units, 0 or infinite as in `SmallestEps`. It is read from `result` if the image is among those
    measured there, else computed alone. Both ways agree, because this attack starts at the image
    itself and not at random noise.
    """
    among = result.eps[result.index == img]
    return float(
        among[0]
        if len(among)
        else cache.answer(str(result.meta["run"]), SmallestEpsSpec(index=img)).eps[0]
    )


def _flip(eps: float, result: SmallestEps) -> str:
    if math.isfinite(eps):
        return f"is fooled at ε = {grey_text(eps)}" if eps else "is misclassified untouched"
    return f"was not fooled up to ε = {eps_text(result.limit)}"


def curve(here: Context, chosen: Choice) -> None:
    """Draw accuracy against ε as an interactive figure, with a ring at the ε of the slider.

    It is the curve of `chosen.answers` if that was measured for all networks, else that of
    `AccuracyCurveSpec`.
    """
    figures = load("robustviz.views.attack.figures")
    spec: AnswersSpec | AccuracyCurveSpec = chosen.answers
    results: dict[str, AccuracyCurve] = dict(_answered(here, chosen))
    if len(results) < len(here.sides):
        spec = AccuracyCurveSpec()
        results = dict(widgets.measured(here, spec, "the accuracy curve", "about 20 s"))
    if results:
        widgets.draw(figures.accuracy_curve, results, widgets.Frame("curve", spec), here=chosen.eps)


def _answered(here: Context, chosen: Choice) -> dict[str, Answers]:
    """Returns the predictions for many attacked images, by printed network name, of the networks
    that have them in memory or on disk. Nothing is measured.
    """
    known = {
        name: cache.kept(run_id, chosen.answers) for name, run_id in widgets.names(here).items()
    }
    return {name: result for name, result in known.items() if result is not None}


def classes(here: Context, chosen: Choice) -> None:
    """Draw the accuracy of each class under attack, and one confusion matrix per network. If no
    network's predictions are in memory or on disk, draw a sentence that asks the user to measure
    them.
    """
    figures = load("robustviz.views.attack.figures")
    st.subheader("Class by class")
    results = _answered(here, chosen)
    if not results:
        st.markdown("Measure the accuracy at every ε first: the button is at the top.")
        return
    widgets.draw(
        figures.classes_held, results, widgets.Frame("classes", chosen.answers), eps=chosen.eps
    )
    columns = st.columns(2, gap="large")
    for column, (name, result) in zip(columns, results.items(), strict=False):
        side = name[:1].lower()
        with column:
            st.markdown(f":{shell.side_colour(side)}[**{name}**]")
            frame = widgets.Frame(f"confusion-{side}", chosen.answers)
            widgets.draw(figures.confusion, result, frame, eps=chosen.eps)


def steps(here: Context, chosen: Choice) -> None:
    """Draw each network's softmax output for the true class after each step of the attack."""
    figures, one = load("robustviz.views.attack.figures"), chosen.one
    spec = TrajectorySpec(one.index, one.attack, one.eps, one.steps, one.seed, one.target)
    if results := widgets.measured(here, spec, "the attack step by step"):
        widgets.draw(figures.trajectory, results, widgets.Frame("trajectory", spec))
