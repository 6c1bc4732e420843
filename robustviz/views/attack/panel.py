"""The parts of the Attack page: controls, one network under attack, the curves over many images."""

from __future__ import annotations

import math
from typing import Literal

import streamlit as st

from robustviz.runs import folder
from robustviz.terms import term
from robustviz.training.ladder import best_ladder, headline
from robustviz.types import eps_text, grey_text
from robustviz.ui import cache, shell, widgets
from robustviz.ui.context import Context, label
from robustviz.views import pictures
from robustviz.views.attack import figures
from robustviz.views.attack.result import (
    AccuracyCurveSpec,
    Adversarial,
    AdversarialSpec,
    SmallestEps,
    SmallestEpsSpec,
    TrajectorySpec,
)
from robustviz.views.theme import lines

MARKS = {"ok": "✓", "warning": "!", "unreliable": "✗"}  # before a finding of the doctor
ATTACKS: dict[Literal["pgd", "fgsm", "targeted"], str] = {
    "pgd": "PGD",
    "fgsm": "FGSM",
    "targeted": "Targeted",
}


def controls(here: Context) -> AdversarialSpec:
    """Draw the controls, checked once more here because an address can say anything; the attack on
    the image.
    """
    run = folder.open_model(here.a)
    usual = round(run.eps * 255)
    top = max(16, min(255, 2 * usual))
    left, right = st.columns([1, 2], vertical_alignment="bottom")
    kind = left.segmented_control(
        "Attack",
        list(ATTACKS),
        required=True,
        format_func=ATTACKS.__getitem__,
        help=term("pgd"),
        **shell.linked("attack", "pgd", ATTACKS),
    )
    level = right.slider(
        f"ε in grey levels of 255 (trained for {eps_text(run.eps)})",
        0,
        top,
        help=term("epsilon"),
        **shell.linked("eps", usual, range(top + 1)),
    )
    a, b, c = st.expander("More settings", icon=":material/settings:").columns(3)
    steps = a.number_input(
        "Steps of PGD", 1, 100, help=term("pgd"), **shell.linked("steps", 10, range(1, 101))
    )
    seed = b.number_input(
        "Seed of the random start",
        0,
        9999,
        help=term("seed"),
        **shell.linked("seed", 0, range(10_000)),
    )
    names = list(run.info["images"]["names"])
    target = c.selectbox(
        "Target class, for a targeted attack",
        names,
        help=term("targeted"),
        **shell.linked("target", names[0], names),
    )
    shell.write_address()  # here too: a fragment ends before the page does
    return AdversarialSpec(
        here.img,
        attack="fgsm" if kind == "fgsm" else "pgd",
        eps=int(level) / 255,
        steps=int(steps),
        seed=int(seed),
        target=names.index(target) if kind == "targeted" else -1,
    )


def one_network(side: str, run_id: str, chosen: AdversarialSpec) -> None:
    """One network: what it says now, the pictures, the class bars, the doctor."""
    result = cache.answer(run_id, chosen)
    st.subheader(f":{shell.side_colour(side)}[{side.upper()}] · {label(folder.open_model(run_id))}")
    st.markdown(sentence(result, chosen.target))
    caption = (
        f"clean, attacked at ε = {eps_text(result.eps)}, and the change"
        f" × {pictures.gain(result.eps):.3g} (grey: none)"
    )
    sheet = pictures.sheet(
        [result.x, result.x_adv, pictures.delta(result.x, result.x_adv, result.eps)], 192
    )
    st.image(sheet, width="stretch", alt=f"Model {side.upper()}: {caption}")
    st.markdown(f"Left to right: {caption}.")
    widgets.draw(
        figures.adversarial,
        result,
        widgets.Frame(f"bars-{side}", chosen, words="", image=sheet),
        side=side,
    )
    doctor(run_id, result)


def sentence(result: Adversarial, target: int = -1) -> str:
    """What happened to this image, with its numbers; `target` is the class that was to be reached,
    −1 where there was none.
    """
    names = result.meta["classes"]
    before, after = int(result.probs.argmax()), int(result.probs_adv.argmax())
    was, now = (
        f"{names[probs.argmax()]} ({probs.max():.0%})" for probs in (result.probs, result.probs_adv)
    )
    outcome = f"**{was} → {now}**: it holds against this attack."
    if before != result.y:
        outcome = (
            f"Wrong already without an attack: it says **{was}**, it is a {names[result.y]}."
            f" Attacked: **{now}**."
        )
    elif target not in (-1, result.y):
        outcome = (
            f"**{was} → {now}**. The target {'is' if after == target else 'is not'} reached"
            f" ({names[target]})."
        )
    elif result.eps == 0:
        outcome = f"**{was}**: nothing may change at ε = 0."
    elif after != result.y:
        outcome = f"**{was} → {now}**: this model was fooled."
    return f"{outcome} No pixel changed by more than {eps_text(result.distance)}."


def doctor(run_id: str, result: Adversarial) -> None:
    """The badge: this image's own two checks, and those made when the run was evaluated."""
    near = result.distance <= result.eps + 1e-6
    inside = bool(result.x_adv.min() >= 0 and result.x_adv.max() <= 1)
    run = folder.open_model(run_id)
    evaluation, found = run.evaluation(), run.evaluations()
    together, climbed = headline(found, run.eps), best_ladder(found, run.eps)
    findings = evaluation.doctor if evaluation else ()
    warned = climbed.warnings if climbed else ()
    levels = ["ok" if right else "unreliable" for right in (near, inside)]
    levels += [*(finding.level for finding in findings), *["warning"] * len(warned)]
    count, hard, soft = len(levels), levels.count("unreliable"), levels.count("warning")
    verdict, icon = (
        (f"unreliable by {hard} of {count} checks", ":material/error:")
        if hard
        else (f"{soft} of {count} checks warn", ":material/warning:")
        if soft
        else (f"no fault found in {count} checks; not a proof", ":material/check_circle:")
    )
    with st.popover(f"Doctor: {verdict}", icon=icon, help=term("doctor")):
        st.markdown(
            f"- {MARKS[levels[0]]} This image: change {result.distance:.4f}, allowed"
            f" {result.eps:.4f}.\n- {MARKS[levels[1]]} This image: pixels within 0 to 1."
        )
        if evaluation:
            st.markdown(
                f"At its evaluation ({evaluation.printed} at ε = {eps_text(evaluation.eps)}, n ="
                f" {evaluation.n}, seed {evaluation.seed}):\n"
                + "\n".join(f"- {MARKS[finding.level]} {finding.text}" for finding in findings)
            )
        if together:
            st.markdown(
                "\n".join(
                    (together.beside(evaluation), *(f"- {MARKS['warning']} {w}" for w in warned))
                )
            )


def curve(here: Context, eps: float | None) -> None:
    """Accuracy against ε, with a dot where the slider is."""
    spec = AccuracyCurveSpec()
    if results := widgets.measured(here, spec, "the accuracy curve", "about 10 s"):
        words = lines(
            results,
            lambda result: f"{result.meta['summary']} (seed {result.meta['seed']}, band: 95 %).",
        )
        widgets.draw(
            figures.accuracy_curve,
            results,
            widgets.Frame("curve", spec, words="  \n".join(words)),
            here=eps,
        )


def histogram(here: Context) -> None:
    """The smallest ε that flips this image, over the histogram of a hundred."""
    spec = SmallestEpsSpec()
    if results := widgets.measured(here, spec, "the smallest ε", "about 10 s"):
        own = {name: _own(result, here.img) for name, result in results.items()}
        words = [
            *(
                f"**{name}**: this image {_flip(own[name], result)}; {result.meta['summary']}."
                for name, result in results.items()
            ),
            "PGD-20 with bisection: an upper bound on the true distance.",
        ]
        widgets.draw(
            figures.smallest_eps,
            results,
            widgets.Frame("histogram", spec, words="  \n".join(words)),
            here=[eps if math.isfinite(eps) else None for eps in own.values()],
        )


def _own(result: SmallestEps, img: int) -> float:
    """The smallest ε of one image: it is known where the image is one of the hundred, because this
    attack starts from the image.
    """
    among = result.eps[result.index == img]
    return float(
        among[0]
        if len(among)
        else cache.answer(str(result.meta["run"]), SmallestEpsSpec(index=img)).eps[0]
    )


def _flip(eps: float, result: SmallestEps) -> str:
    if math.isfinite(eps):
        return f"flips at ε = {grey_text(eps)}" if eps else "is wrong untouched"
    return f"was not flipped up to {eps_text(result.limit)}"


def steps(here: Context, chosen: AdversarialSpec) -> None:
    """The way of this attack through its steps."""
    spec = TrajectorySpec(
        chosen.index, chosen.attack, chosen.eps, chosen.steps, chosen.seed, chosen.target
    )
    if results := widgets.measured(here, spec, "the way of the attack"):
        words = "  \n".join(lines(results, lambda result: f"{result.meta['summary']}."))
        widgets.draw(figures.trajectory, results, widgets.Frame("trajectory", spec, words))
