"""The parts of the Attack page: controls, one network under attack, the curves over many images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import streamlit as st

from robustviz.runs import folder
from robustviz.terms import term
from robustviz.types import eps_text, grey_text
from robustviz.ui import cache, widgets
from robustviz.ui.context import Context, label
from robustviz.ui.shell import linked, side_colour, write_address
from robustviz.ui.widgets import Frame
from robustviz.views import pictures
from robustviz.views.attack import figures
from robustviz.views.attack.result import (
    AccuracyCurveSpec,
    Adversarial,
    AdversarialSpec,
    OneAttack,
    SmallestEps,
    SmallestEpsSpec,
    TrajectorySpec,
)

A = TypeVar("A", bound=OneAttack[Any])

ATTACKS = {"pgd": "PGD", "fgsm": "FGSM", "targeted": "Targeted"}


@dataclass(frozen=True)
class Choice:
    """The attack that is chosen: its kind, radius in grey levels, steps, seed and target class (−1:
    none).
    """

    kind: str
    level: int
    steps: int
    seed: int
    target: int

    @property
    def eps(self) -> float:
        return self.level / 255

    def of(self, spec: type[A], index: int) -> A:
        """This attack on a test image, as a spec."""
        name: Literal["pgd", "fgsm"] = "fgsm" if self.kind == "fgsm" else "pgd"
        return spec(index, name, self.eps, self.steps, self.seed, self.target)


def controls(here: Context) -> Choice:
    """Draw the controls, checked once more here because an address can say anything."""
    run = folder.open_model(here.a)
    usual = round(run.eps * 255)
    top = max(16, min(255, 2 * usual))
    left, right = st.columns([1, 2], vertical_alignment="bottom")
    with left:
        kind = st.segmented_control(
            "Attack",
            list(ATTACKS),
            required=True,
            format_func=ATTACKS.__getitem__,
            help=term("pgd"),
            **linked("attack", "pgd", ATTACKS),
        )
    with right:
        title = f"ε in grey levels of 255 (trained for {eps_text(run.eps)})"
        level = st.slider(
            title, 0, top, help=term("epsilon"), **linked("eps", usual, range(top + 1))
        )
    with st.expander("More settings", icon=":material/settings:"):
        a, b, c = st.columns(3)
        steps = a.number_input(
            "Steps of PGD", 1, 100, help=term("pgd"), **linked("steps", 10, range(1, 101))
        )
        seed = b.number_input(
            "Seed of the random start",
            0,
            9999,
            help=term("seed"),
            **linked("seed", 0, range(10_000)),
        )
        names = list(run.info["images"]["names"])
        target = c.selectbox(
            "Target class, for a targeted attack",
            names,
            help=term("targeted"),
            **linked("target", names[0], names),
        )
    write_address()  # here too: a fragment ends before the page does
    aim = names.index(target) if kind == "targeted" else -1
    return Choice(str(kind or "pgd"), int(level), int(steps), int(seed), aim)


def one_network(side: str, run_id: str, here: Context, chosen: Choice) -> None:
    """One network: what it says now, the pictures, the class bars, the doctor."""
    run = folder.open_model(run_id)
    spec = chosen.of(AdversarialSpec, here.img)
    found = cache.answer(run_id, spec)
    st.subheader(f":{side_colour(side)}[{side.upper()}] · {label(run)}")
    st.markdown(sentence(found, chosen))
    gain = pictures.gain(found.eps)
    change = pictures.delta(found.x, found.x_adv, found.eps)
    said = f"clean, attacked at ε = {eps_text(found.eps)}, and the change × {gain:.3g} (grey: none)"
    sheet = pictures.sheet([found.x, found.x_adv, change], 192)
    st.image(sheet, width="stretch", alt=f"Model {side.upper()}: {said}")
    st.markdown(f"Left to right: {said}.")
    widgets.draw(
        figures.adversarial, found, Frame(f"bars-{side}", spec, words="", image=sheet), side=side
    )
    doctor(run_id, found)


def sentence(found: Adversarial, chosen: Choice) -> str:
    """What happened to this image, with its numbers."""
    names = found.meta["classes"]
    before, after = int(found.probs.argmax()), int(found.probs_adv.argmax())
    moved = f"No pixel changed by more than {eps_text(found.distance)}."
    was, now = (
        f"{names[before]} ({found.probs[before]:.0%})",
        f"{names[after]} ({found.probs_adv[after]:.0%})",
    )
    if before != found.y:
        return (
            f"Wrong already without an attack: it says **{was}**, it is a {names[found.y]}."
            f" Attacked: **{now}**. {moved}"
        )
    if chosen.target >= 0 and chosen.target != found.y:
        hit = "The target is reached" if after == chosen.target else "The target is not reached"
        return f"**{was} → {now}**. {hit} ({names[chosen.target]}). {moved}"
    if found.eps == 0:
        return f"**{was}**: nothing may change at ε = 0. {moved}"
    if after != found.y:
        return f"**{was} → {now}**: this model was fooled. {moved}"
    return f"**{was} → {now}**: it holds against this attack. {moved}"


def doctor(run_id: str, found: Adversarial) -> None:
    """The badge: this image's own two checks, and those made when the run was evaluated."""
    own = [
        found.distance <= found.eps + 1e-6,
        bool(found.x_adv.min() >= 0 and found.x_adv.max() <= 1),
    ]
    evaluation = folder.open_model(run_id).evaluation()
    findings = evaluation.doctor if evaluation else ()
    faults = [finding for finding in findings if not finding.ok]
    count = len(own) + len(findings)
    if all(own) and not faults:
        text, icon = (
            f"Doctor: no fault found in {count} checks; not a proof",
            ":material/check_circle:",
        )
    else:
        text, icon = (
            f"Doctor: {len(faults) + own.count(False)} of {count} checks found a fault",
            ":material/warning:",
        )
    with st.popover(text, icon=icon, help=term("doctor")):
        st.markdown(
            f"- {'✓' if own[0] else '✗'} This image: change {found.distance:.4f}, allowed"
            f" {found.eps:.4f}.\n- {'✓' if own[1] else '✗'} This image: pixels within 0 to 1."
        )
        if evaluation:
            protocol = (
                f"{evaluation.printed} at ε = {eps_text(evaluation.eps)}, n = {evaluation.n}, seed"
                f" {evaluation.seed}"
            )
            st.markdown(
                f"At its evaluation ({protocol}):\n"
                + "\n".join(f"- {'✓' if f.ok else '✗'} {f.text}" for f in findings)
            )


def curve(here: Context, chosen: Choice) -> None:
    """Accuracy against ε, with a dot where the slider is."""
    spec = AccuracyCurveSpec()
    found = widgets.measured(here, spec, "the accuracy curve", "about 10 s")
    if found:
        said = (
            f"**{name}**: {result.meta['summary']} (seed {result.meta['seed']}, band: 95 %)."
            for name, result in found.items()
        )
        frame = Frame("curve", spec, words="  \n".join(said))
        widgets.draw(figures.accuracy_curve, found, frame, here=chosen.eps)


def histogram(here: Context) -> None:
    """The smallest ε that flips this image, over the histogram of a hundred."""
    spec = SmallestEpsSpec()
    found = widgets.measured(here, spec, "the smallest ε", "about 10 s")
    if found:
        own = {name: _own(result, here.img) for name, result in found.items()}
        marks = [eps if math.isfinite(eps) else None for eps in own.values()]
        lines = [
            f"**{name}**: this image {_flip(own[name], result)}; {result.meta['summary']}."
            for name, result in found.items()
        ]
        lines.append("PGD-20 with bisection: an upper bound on the true distance.")
        frame = Frame("histogram", spec, words="  \n".join(lines))
        widgets.draw(figures.smallest_eps, found, frame, here=marks)


def _own(found: SmallestEps, img: int) -> float:
    """The smallest ε of one image: it is known where the image is one of the hundred, because this
    attack starts from the image.
    """
    among = found.eps[found.index == img]
    if not len(among):
        among = cache.answer(str(found.meta["run"]), SmallestEpsSpec(index=img)).eps
    return float(among[0])


def _flip(eps: float, result: SmallestEps) -> str:
    if eps == 0:
        return "is wrong untouched"
    if eps == float("inf"):
        return f"was not flipped up to {eps_text(result.limit)}"
    return f"flips at ε = {grey_text(eps)}"


def steps(here: Context, chosen: Choice) -> None:
    """The way of this attack through its steps."""
    spec = chosen.of(TrajectorySpec, here.img)
    found = widgets.measured(here, spec, "the way of the attack")
    if found:
        said = (f"**{name}**: {result.meta['summary']}." for name, result in found.items())
        frame = Frame("trajectory", spec, words="  \n".join(said))
        widgets.draw(figures.trajectory, found, frame)
