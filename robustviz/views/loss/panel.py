"""The panels of the Loss page: the first screen, the loss around an image on one plane, soft
labels, and under *More* accuracies, gradients, curvature and the loss around the weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import streamlit as st

from robustviz.runs import catalogue, folder
from robustviz.runs.folder import Run
from robustviz.stats import tango, wilson
from robustviz.terms import term
from robustviz.training.evaluation import Evaluation, paired
from robustviz.training.ladder import headline
from robustviz.types import UserError, eps_text
from robustviz.ui import cache, stage, widgets
from robustviz.ui.context import Context, choose
from robustviz.ui.networks import label, on
from robustviz.ui.shell import linked, write_address
from robustviz.ui.widgets import Frame
from robustviz.views.loss import figures, screen_figures, surface_figures
from robustviz.views.loss.result import (
    CurvatureSpec,
    GradientsSpec,
    SoftLabelsSpec,
    SurfacesSpec,
    WeightSurfaceSpec,
    WorstDirection,
    WorstDirectionSpec,
    first_screen,
)
from robustviz.views.verdict import held

COMPARED = {"sides": "A and B", "alignment": "Hard or soft label"}
BEFORE, AFTER, WITNESS = "Source before", "Source after", "Witness"
# 3-D shows one target at a time: each panel is a WebGL canvas, and browsers keep only a few.
VIEWS = {"contour": "Contours", "3d-hard": "3-D, true class", "3d-soft": "3-D, soft label"}
TARGETS: dict[str, Literal["hard", "soft"]] = {"3d-hard": "hard", "3d-soft": "soft"}
TEMPERATURES = [str(each) for each in screen_figures.TEMPERATURES]
REFINED = 51  # points along each direction of a refined surface, which computes only some
GRIDS = (21, 41, REFINED)
DIRECTIONS: dict[Literal["sign", "pgd"], str] = {"sign": "gradient's sign", "pgd": "found by PGD"}
LEARNED = {"witness_hard": "the witness's hard labels", "label": "the true classes"}
STATES = {"clean": "Untouched", "attacked": "Attacked"}


@dataclass(frozen=True)
class Cast:
    """The networks on the page: their run ids by name (`named`), and the run id of the `witness`.

    The witness is the network whose outputs an aligned network learned; "" if there is none. If
    `named` has the name `Witness`, its other two are one network before and after alignment.
    """

    named: dict[str, str]
    witness: str = ""

    @property
    def reference(self) -> str:
        """The run id of the network on which the adversarial direction is computed: the first."""
        return next(iter(self.named.values()))

    @property
    def frozen(self) -> str:
        """The name `Witness` if `named` has it, else "". Alignment does not change that network."""
        return WITNESS if WITNESS in self.named else ""


def first(here: Context) -> tuple[Context, Cast]:
    """Draw the first screen; return the context (`img`: the image shown) and the networks."""
    wanted = st.segmented_control(
        "Shown",
        list(COMPARED),
        required=True,
        format_func=COMPARED.__getitem__,
        label_visibility="collapsed",
        **linked("compared", "sides", COMPARED),
    )
    if wanted == "sides":
        _own(here)
        family = _family(here)
        return here, Cast(widgets.names(here), family[2].id if family else "")
    if (family := _family(here)) is None:
        st.info(
            f"No model alignment has been trained on {here.data} yet, so networks A and B are"
            " compared. Train one on the Train page.",
            icon=":material/info:",
        )
        _own(here)
        return here, Cast(widgets.names(here))
    before, after, witness = family
    chosen = Cast({BEFORE: before.id, AFTER: after.id, WITNESS: witness.id}, witness.id)
    return _aligned(here, family), chosen


def _own(here: Context) -> None:
    """Draw the loss around the image for A and B, each along its own worst direction, at A's ε."""
    (spec,) = first_screen(here.img, catalogue.radius(folder.open_model(here.a)))
    if found := widgets.measured(here, spec, "the loss around this image"):
        screen = cache.made(
            lambda: screen_figures.worst_direction(found), tuple(found.values()), *found
        )
        stage.show("loss", screen)
        widgets.take_home("loss", "How close is the boundary?", screen, found, spec)


def _aligned(here: Context, family: tuple[Run, Run, Run]) -> Context:
    """Draw the loss around the image for the source before and after its alignment; return the
    context, with the displayed image as `img`. If the image is only the page's default and the
    witness misclassifies it, the first image that the witness classifies correctly replaces it.
    """
    before, after, witness = family
    sides, asked = {BEFORE: before.id, AFTER: after.id}, here.img
    spec = WorstDirectionSpec(
        index=here.img, eps=after.eps, reference=before.id, witness=witness.id
    )
    found = widgets.measured(sides, spec, "the loss around this image")
    nobody = st.session_state.get("links", {}).get("img") == here.img
    if nobody and _misread(found) and (right := _first_right(witness)) is not None:
        here, spec = replace(here, img=right), replace(spec, index=right)
        found = widgets.measured(sides, spec, "the loss around this image")
    if len(found) < 2:
        return here
    learned = LEARNED.get(str(after.info["method"].get("target")), "")
    screen = cache.made(
        lambda: screen_figures.alignment(
            found[BEFORE], found[AFTER], witness=f"witness: {witness.architecture}", control=learned
        ),
        tuple(found.values()),
        "alignment",
    )
    stage.show("soft-label", screen)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(
            _said_of_image(here, asked, found)
            + f"The source is {label(before)}, before and after its alignment. It learned"
            f" {learned or 'the soft labels'} of the witness, {label(witness)}.",
            width="stretch",
        )
        right = _first_right(witness)
        if _misread(found) and right is not None:
            st.button(
                f"Show image {right}, which the witness gets right", on_click=choose, args=(right,)
            )
        widgets.take_home("soft-label", "Hard or soft label?", screen, found, spec)
    return here


def _misread(found: Mapping[str, WorstDirection]) -> bool:
    """Whether the witness misclassifies the clean image, according to its outputs in `found`."""
    return any(int(result.label.argmax()) != result.y for result in found.values())


def _said_of_image(here: Context, asked: int, found: Mapping[str, WorstDirection]) -> str:
    first = next(iter(found.values()))
    if _misread(found):
        answer = first.meta["classes"][int(first.label.argmax())]
        return f"**The witness misclassifies this image as {answer}**, also in its soft label. "
    return f"Image {here.img}: the first that the witness gets right. " if asked != here.img else ""


def _first_right(run: Run) -> int | None:
    """The index of the first clean test image that a run's evaluation found right, or None."""
    evaluation = run.evaluation()
    right = evaluation.right()[0] if evaluation and evaluation.clean_right else ()
    return next((at for at, each in enumerate(right) if each), None)


def _family(here: Context) -> tuple[Run, Run, Run] | None:
    """Returns (source before, source after, witness): of A or B if one is aligned, else of another
    alignment on this data, preferably to soft labels, then a shipped one; None without any. An
    alignment whose source or witness is missing is passed over with a message.
    """
    candidates = [
        *(folder.open_model(run_id) for _, run_id in here.sides),
        *sorted(
            on(here.data).values(),
            key=lambda run: (
                run.info["method"].get("target", "witness_soft") != "witness_soft",
                not run.shipped,
            ),
        ),
    ]
    from robustviz.views.transfer.probe import relatives  # imports torch, so only when needed

    for run in (each for each in candidates if each.method_key == "model_alignment"):
        try:
            before, witness = relatives(run)
        except UserError as error:
            st.info(
                f"{run.id} cannot be shown with its source and its witness. {error}",
                icon=":material/info:",
            )
        else:
            if before is not None and witness is not None:
                return before, run, witness
    return None


def bars(here: Context, chosen: Cast, temperature: int) -> None:
    """Draw the image's soft labels at this temperature as bars; a switch shows it attacked."""
    st.subheader("Soft labels")
    state = st.segmented_control(
        "Image",
        list(STATES),
        required=True,
        format_func=STATES.__getitem__,
        help=term("pgd"),
        **linked("state", "clean", STATES),
    )
    write_address()
    # The witness comes first, because the others are compared with it.
    shown = sorted(
        {
            **chosen.named,
            **({} if chosen.witness in ("", *chosen.named.values()) else {WITNESS: chosen.witness}),
        }.items(),
        key=lambda pair: pair[0] != WITNESS,
    )
    spec = SoftLabelsSpec(here.img, float(temperature))
    if found := widgets.measured(dict(shown), spec, "the soft labels"):
        widgets.draw(
            figures.soft_labels,
            found,
            Frame("soft-labels", spec),
            attacked=state == "attacked",
            witness=WITNESS if WITNESS in found else "",
        )


def _temperature(chosen: Cast) -> int:
    """The temperature of all soft labels: that of the first screen's slider if the page shows an
    alignment, else that of a slider drawn here.
    """
    if chosen.frozen:
        return int(st.session_state.get("T", "4"))
    return int(
        st.select_slider(
            "Temperature T",
            TEMPERATURES,
            help=term("temperature"),
            **linked("T", "4", TEMPERATURES),
        )
    )


def surface_controls(here: Context, chosen: Cast) -> tuple[str, SurfacesSpec]:
    """Draw the surface's controls; return a key of `VIEWS`, and one spec for all networks."""
    left, right = st.columns(2, vertical_alignment="bottom")
    view = left.segmented_control(
        "Surface",
        list(VIEWS),
        required=True,
        format_func=VIEWS.__getitem__,
        help=term("loss surface"),
        **linked("surface", "contour", VIEWS),
    )
    with right:
        temperature = _temperature(chosen)
    with st.popover("Settings", icon=":material/tune:", type="tertiary"):
        a, b, c = st.columns(3)
        grid = a.selectbox("Grid", GRIDS, format_func=_grid, **linked("grid", 21, GRIDS))
        direction = b.selectbox(
            "Adversarial direction",
            list(DIRECTIONS),
            format_func=DIRECTIONS.__getitem__,
            help=term("adversarial direction"),
            **linked("direction", "sign", DIRECTIONS),
        )
        seed = c.number_input(
            "Seed of the random direction",
            0,
            9999,
            help=term("seed"),
            **linked("plane", 0, range(10_000)),
        )
    write_address()
    return str(view), SurfacesSpec(
        index=here.img,
        grid=grid,
        span=2 * catalogue.radius(folder.open_model(chosen.reference)),
        temperature=float(temperature),
        direction=direction,
        seed=int(seed),
        reference=chosen.reference,
        witness=chosen.witness,
        refine=grid == REFINED,
    )


def surface(here: Context, chosen: Cast) -> int:
    """Draw the loss around the image for every network, on one plane; return the temperature."""
    st.subheader("The loss around this image, on one plane for all")
    maker = next(iter(chosen.named))
    st.markdown(
        "This is a 2-D slice of a space with thousands of dimensions: use it to compare"
        " networks. Every panel shows the same plane, along the adversarial direction of"
        f" {maker}. Dotted: the ε box. Dashed: where the prediction changes."
    )
    view, spec = surface_controls(here, chosen)
    if found := widgets.measured(chosen.named, spec, "the surface"):
        with widgets.place():
            widgets.draw(
                surface_figures.surfaces,
                found,
                Frame("loss-surface", spec),
                target=TARGETS.get(view, "both" if chosen.witness else "hard"),
                kind="3d" if view in TARGETS else "contour",
                frozen=chosen.frozen if chosen.frozen in found else "",
            )
    return int(spec.temperature or 4)


def _grid(n: int) -> str:
    return f"{n} × {n}" + (", in full only where it bends" if n == REFINED else "")


def judged(chosen: Cast) -> None:
    """Draw the accuracies, and once they are measured, the gradients' share on the object and their
    cosine with the gradients of other networks (those of `_targets`).
    """
    st.subheader(
        "Are its gradients more on the object, is it more robust?"
        if chosen.frozen
        else "Which network has more of its gradient on the object, and which is more robust?"
    )
    with widgets.place():
        accuracies(chosen)
    spec = GradientsSpec(targets=",".join(_targets(chosen)))
    if found := widgets.measured(chosen.named, spec, "the gradients"):
        with widgets.place():
            widgets.draw(figures.gradients, found, Frame("gradients", spec))


def _targets(chosen: Cast) -> list[str]:
    """Run ids of the networks with whose gradients those of the page's networks are compared: the
    witness and the shipped ordinary networks not on the page; without any, the page's networks.
    """
    from robustviz.views.transfer.probe import ordinary  # imports torch, so only when needed

    shown = [folder.open_model(run_id) for run_id in chosen.named.values()]
    witness = [folder.open_model(chosen.witness)] if chosen.witness else []
    return [run.id for run in [*witness, *ordinary(shown[0], [*shown, *witness])] or shown]


def accuracies(chosen: Cast) -> None:
    """Draw a table of the evaluated accuracies, and the first two networks' paired difference in
    words. Raises UserError if none has an evaluation by PGD-20 or AutoAttack at its ε and seed 0.
    """
    runs = {name: folder.open_model(run_id) for name, run_id in chosen.named.items()}
    found = {name: _evaluations(run) for name, run in runs.items()}
    kinds = list(dict.fromkeys(kind for each in found.values() for kind in each))
    if not kinds:
        raise UserError(
            "None of these networks has been evaluated under PGD-20 or AutoAttack at its ε, so"
            " their accuracies are not known: evaluate them first."
        )
    worst = {name: headline(run.evaluations(), run.eps) for name, run in runs.items()}
    rows = [
        ["", "Clean", *kinds, "All attacks together"],
        ["---"] * (3 + len(kinds)),
        *(
            [
                name,
                *_cells(each, kinds),
                _cell(one.k, one.n) if (one := worst[name]) else "only one attack",
            ]
            for name, each in found.items()
        ),
    ]
    images = {each.images for every in found.values() for each in every.values()}
    images |= {each.images for each in worst.values() if each}
    st.markdown("\n".join(f"| {' | '.join(row)} |" for row in rows))
    radii = ", ".join(
        dict.fromkeys(eps_text(each.eps) for every in found.values() for each in every.values())
    )
    line, sure = _compared(found)
    st.markdown(
        f"Accuracy with 95% intervals, at ε = {radii}, seed 0."
        + " Cells with another n were measured on other images." * (len(images) > 1)
        + f" {line}"
    )
    if sure:
        with st.popover("How sure?", type="tertiary", key="sure-accuracies"):
            st.markdown(sure)


def _evaluations(run: Run) -> dict[str, Evaluation]:
    """The run's PGD-20 and AutoAttack evaluations at its ε and seed 0, by the attack's printed
    name; if there are several of one attack, the evaluation with the largest n.
    """
    wanted = [
        evaluation
        for evaluation in run.evaluations()
        if (evaluation.attack.get("key") == "autoattack" or evaluation.printed == "PGD-20")
        and (evaluation.eps, evaluation.seed) == (run.eps, 0)
    ]
    return {
        kind: max((each for each in wanted if each.printed == kind), key=lambda each: each.n)
        for kind in dict.fromkeys(each.printed for each in wanted)
    }


def _cells(each: Mapping[str, Evaluation], kinds: Sequence[str]) -> list[str]:
    """A network's table cells: clean accuracy on the most images, and accuracy by attack."""
    if not each:
        return ["not evaluated", *[""] * len(kinds)]
    largest = max(each.values(), key=lambda evaluation: evaluation.n)
    return [
        _cell(largest.clean_k, largest.n),
        *(
            _cell(each[kind].robust_k, each[kind].n) if kind in each else "not measured"
            for kind in kinds
        ),
    ]


def _cell(k: int, n: int) -> str:
    low, high = wilson(k, n)
    return f"{100 * k / n:.1f}% [{100 * low:.1f}, {100 * high:.1f}] of {n}"


def _compared(found: Mapping[str, Mapping[str, Evaluation]]) -> tuple[str, str]:
    """Returns two texts that compare the second network with the first on the same images: one
    sentence, on the attack with the most images, and all sentences, on every attack that both were
    evaluated with and on clean images. Both are empty for one network.
    """
    if len(found) < 2:
        return "", ""
    (first, before), (second, after) = list(found.items())[:2]
    both = [kind for kind in after if kind in before]
    if not both:
        return f"{first} and {second} were not evaluated with the same attack.", ""
    kinds = sorted(both, key=lambda kind: -after[kind].n)
    line, said = "", []
    for kind in kinds:
        one, two = before[kind], after[kind]
        try:
            paired(two, one)  # raises where they were not measured alike
            sides = one.right()[1], two.right()[1]
        except UserError as error:
            said.append(f"{kind}: {error}")
            continue
        names = first, second
        verdict = held(*sides, attack=kind, eps=one.eps, seed=one.seed, names=names)
        line = line or verdict.line
        said += [f"**{kind}.** {verdict.line}", *verdict.sure]
    return line, "\n\n".join(filter(None, [*said, _clean(before[kinds[0]], after[kinds[0]])]))


def _clean(before: Evaluation, after: Evaluation) -> str:
    """How clean accuracy changed, in words; empty without results per image on the same images."""
    if after.images != before.images or not (after.clean_right and before.clean_right):
        return ""
    mine, theirs = after.right()[0], before.right()[0]
    b, c = int((mine & ~theirs).sum()), int((~mine & theirs).sum())
    low, high = (100 * end for end in tango(b, c, after.n))
    return f"Clean accuracy: {100 * (b - c) / after.n:+.1f} points [{low:+.1f}, {high:+.1f}]." + (
        "" if low > 0 or high < 0 else " No difference shown."
    )


def curvature(here: Context, chosen: Cast) -> None:
    """Draw the curvature of the loss; clicking a point shows its image in every view."""
    st.subheader("Curvature: how strongly does the loss bend?")
    spec, cost = CurvatureSpec(), "about 15 s"
    if found := widgets.measured(chosen.named, spec, "the curvature of up to 50 images", cost):
        widgets.thumbnails(
            here,
            widgets.draw(figures.curvature, found, Frame("curvature", spec, brush=True)),
            "curvature",
        )
        st.markdown(
            "A click on a point shows its image everywhere. Curvature grows with β, so compare"
            " only values measured with the same β."
        )


def weights(chosen: Cast) -> None:
    """Draw the loss around the trained weights."""
    st.subheader("The loss around the weights")
    grids = (21, REFINED)
    grid = st.selectbox("Grid", grids, format_func=_grid, **linked("weights-grid", 21, grids))
    write_address()
    spec = WeightSurfaceSpec(grid=grid, refine=grid == REFINED)
    if found := widgets.measured(
        chosen.named,
        spec,
        f"the surface around the weights, {grid} × {grid} on 128 images",
        "about 10 s",
    ):
        widgets.draw(surface_figures.weight_surface, found, Frame("weight-surface", spec))
        st.markdown(
            "Robust networks need not look flatter here: a flat filter-normalised slice does"
            " not mean a robust network."
        )
