"""The parts of the Soft labels & loss page: who is compared, the bars, the surfaces, what the
alignment changed in numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import streamlit as st

from robustviz.runs import folder
from robustviz.runs.folder import Run
from robustviz.stats import tango, wilson
from robustviz.terms import term
from robustviz.training.evaluation import Evaluation, paired
from robustviz.types import UserError, eps_text
from robustviz.ui import widgets
from robustviz.ui.context import Context, label, on
from robustviz.ui.shell import linked, write_address
from robustviz.ui.widgets import Frame
from robustviz.views.loss import figures, surface_figures
from robustviz.views.loss.result import (
    CurvatureSpec,
    GradientsSpec,
    SoftLabelsSpec,
    SurfacesSpec,
    WeightSurfaceSpec,
)
from robustviz.views.transfer.probe import ordinary, relatives

COMPARED = {"alignment": "Before and after an alignment", "sides": "Models A and B"}
BEFORE, AFTER, WITNESS = "source before", "source after", "witness"
# In 3-D one target at a time: each panel is a WebGL canvas, and browsers lose some beyond a few.
VIEWS = {"contour": "Contours", "3d-hard": "3-D, true class", "3d-soft": "3-D, soft label"}
# what each shows the loss to; none: both, where there is a witness
TARGETS: dict[str, Literal["hard", "soft"] | None] = {
    "contour": None,
    "3d-hard": "hard",
    "3d-soft": "soft",
}
REFINED = 51  # points along each direction where only some are computed
GRIDS = (21, 41, REFINED)
DIRECTIONS = {"sign": "gradient's sign", "pgd": "where PGD ends"}
STATES = {"clean": "Untouched", "attacked": "Attacked"}


@dataclass(frozen=True)
class Cast:
    """The networks of the page: run ids by printed name, the run that sees them as its own data,
    the witness's id (or none), and whether two of them are one network before and after an
    alignment.
    """

    named: dict[str, str]
    witness: str
    aligned: bool

    @property
    def reference(self) -> str:
        """The id of the network on which the adversarial direction is made: the first one's."""
        return next(iter(self.named.values()))

    @property
    def frozen(self) -> str:
        """The printed name of the network that no training changed here; empty where there
        is none.
        """
        return WITNESS if self.aligned else ""


def cast(here: Context) -> Cast:
    """Who is compared: an aligned source before and after with its witness, or A and B. Says so
    where the first is missing.
    """
    sides = widgets.names(here)
    family = _family(here)
    if family is None:
        st.info(
            f"No model alignment has been trained on {here.data} yet, so models A and B are"
            " compared. Train one on the Train page.",
            icon=":material/info:",
        )
        return Cast(sides, "", False)
    before, after, witness = family
    wanted = st.segmented_control(
        "Compared",
        list(COMPARED),
        required=True,
        format_func=COMPARED.__getitem__,
        help=term("model alignment"),
        **linked("compared", "alignment", COMPARED),
    )
    if wanted == "sides":
        return Cast(sides, witness.id, False)
    st.markdown(
        f"The source, {label(before)}, before and after it learned the soft labels of the witness,"
        f" {label(witness)}. {_target(after)}"
    )
    return Cast({BEFORE: before.id, AFTER: after.id, WITNESS: witness.id}, witness.id, True)


def _target(after: Run) -> str:
    """A warning where the alignment is one of the controls, which learned no soft label."""
    learned = {"witness_hard": "the witness's hard answers", "label": "the true classes"}.get(
        str(after.info["method"].get("target")), ""
    )
    return f"**This is a control:** it learned {learned} instead." if learned else ""


def _family(here: Context) -> tuple[Run, Run, Run] | None:
    """(source before, source after, witness) of A or B if one is aligned, else of this data's
    alignment; None without any.
    """
    chosen = [folder.open_model(run_id) for _, run_id in here.sides]
    others = sorted(
        on(here.data).values(),
        key=lambda run: (
            run.info["method"].get("target", "witness_soft") != "witness_soft",
            not run.shipped,
        ),
    )
    for run in [*chosen, *others]:
        if run.method_key != "model_alignment":
            continue
        try:
            before, witness = relatives(run)
        except UserError as error:
            st.info(
                f"{run.id} cannot be shown with what it was made of. {error}",
                icon=":material/info:",
            )
            continue
        if before is not None and witness is not None:
            return before, run, witness
    return None


def bars(here: Context, chosen: Cast) -> int:
    """Soft labels at a temperature; returned."""
    left, right = st.columns([1, 2], vertical_alignment="bottom")
    with left:
        state = st.segmented_control(
            "Image",
            list(STATES),
            required=True,
            format_func=STATES.__getitem__,
            help=term("pgd"),
            **linked("state", "clean", STATES),
        )
    with right:
        temperature = int(
            st.slider(
                "Temperature T", 1, 20, help=term("temperature"), **linked("T", 4, range(1, 21))
            )
        )
    write_address()
    shown = dict(chosen.named)
    if chosen.witness and chosen.witness not in shown.values():
        shown[WITNESS] = chosen.witness
    # The witness first: it is what the others are compared with.
    shown = dict(sorted(shown.items(), key=lambda pair: pair[0] != WITNESS))
    spec = SoftLabelsSpec(here.img, float(temperature))
    found = widgets.measured(shown, spec, "the soft labels")
    if found:
        witness = WITNESS if WITNESS in found else ""
        frame, attacked = Frame("soft-labels", spec), state == "attacked"
        widgets.draw(figures.soft_labels, found, frame, attacked=attacked, witness=witness)
    return temperature


@dataclass(frozen=True)
class Plane:
    """How the loss around an image is shown: a key of `VIEWS`, the points along each direction, how
    the adversarial direction is made, and the seed of the random one.
    """

    view: str
    grid: int
    direction: Literal["sign", "pgd"]
    seed: int

    def of(self, chosen: Cast, index: int, temperature: int) -> SurfacesSpec:
        """The plane through an image, the same for all networks."""
        return SurfacesSpec(
            index=index,
            grid=self.grid,
            span=2 * folder.open_model(chosen.reference).eps,
            temperature=float(temperature),
            direction=self.direction,
            seed=self.seed,
            reference=chosen.reference,
            witness=chosen.witness,
            refine=self.grid == REFINED,
        )


def surface_controls() -> Plane:
    """Draw the controls of the surface."""
    view = st.segmented_control(
        "Surface",
        list(VIEWS),
        required=True,
        format_func=VIEWS.__getitem__,
        help=term("loss surface"),
        **linked("surface", "contour", VIEWS),
    )
    with st.expander("More settings", icon=":material/settings:"):
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
    return Plane(str(view), int(grid), "pgd" if direction == "pgd" else "sign", int(seed))


def surface(here: Context, chosen: Cast, temperature: int) -> None:
    """The loss around the image in every network, on one plane."""
    st.subheader("The loss around this image")
    st.markdown("A slice of a million-dimensional shape: compare, do not navigate.")
    plane = surface_controls()
    spec = plane.of(chosen, here.img, temperature)
    found = widgets.measured(chosen.named, spec, "the surface")
    if not found:
        return
    with widgets.place():
        widgets.draw(
            surface_figures.surfaces,
            found,
            Frame("loss-surface", spec),
            target=TARGETS[plane.view] or ("both" if chosen.witness else "hard"),
            kind="contour" if plane.view == "contour" else "3d",
            frozen=chosen.frozen if chosen.frozen in found else "",
        )
    maker = next(name for name, run_id in chosen.named.items() if run_id == chosen.reference)
    st.markdown(
        f"Every panel shows the same plane, up to ±{eps_text(spec.span or 0)}. The adversarial"
        f" direction comes from {maker}, the random one from seed {plane.seed}. Pixels are not"
        " clipped. Dotted: the ε box; dashed: the answer changes."
        + (
            f" The loss to the true class is cross-entropy, to the soft label T²·KL at T ="
            f" {temperature}."
            if chosen.witness
            else ""
        )
    )


def _grid(n: int) -> str:
    return f"{n} × {n}" + (", refined where it bends" if n == REFINED else "")


def judged(chosen: Cast) -> None:
    """Is it more semantic, is it more robust? Accuracies, the gradient's share on the object,
    likeness to other networks.
    """
    st.subheader(
        "Is it more semantic, is it more robust?"
        if chosen.aligned
        else "Which is more semantic, which more robust?"
    )
    with widgets.place():
        accuracies(chosen)
    spec = GradientsSpec(targets=",".join(_targets(chosen)))
    found = widgets.measured(chosen.named, spec, "the gradients")
    if found:
        with widgets.place():
            widgets.draw(figures.gradients, found, Frame("gradients", spec))


def _targets(chosen: Cast) -> list[str]:
    """Ids of the networks whose gradients are compared: the witness, then the shipped ordinary ones
    that no shown network is.
    """
    shown = [folder.open_model(run_id) for run_id in chosen.named.values()]
    witness = [folder.open_model(chosen.witness)] if chosen.witness else []
    compared = [*witness, *ordinary(shown[0], [*shown, *witness])]
    return [run.id for run in compared or shown]


def accuracies(chosen: Cast) -> None:
    """A table of what the evaluations found, and the paired difference of the first two networks in
    words.
    """
    opened = {name: folder.open_model(run_id) for name, run_id in chosen.named.items()}
    found = {name: _evaluations(run) for name, run in opened.items()}
    kinds = list(dict.fromkeys(kind for each in found.values() for kind in each))
    if not kinds:
        raise UserError(
            "None of these networks has been evaluated yet, so nothing is known of their accuracy:"
            " evaluate them first."
        )
    head = "| | Clean | " + " | ".join(kinds) + " |\n|---|---|" + "---|" * len(kinds) + "\n"
    rows = []
    for name, each in found.items():
        if not each:
            rows.append(f"| {name} | not evaluated |" + " |" * len(kinds))
            continue
        largest = max(each.values(), key=lambda one: one.n)
        cells = [
            _cell(each[kind].robust_k, each[kind].n) if kind in each else "not measured"
            for kind in kinds
        ]
        rows.append(f"| {name} | {_cell(largest.clean_k, largest.n)} | {' | '.join(cells)} |")
    st.markdown(head + "\n".join(rows))
    radii = ", ".join(
        dict.fromkeys(eps_text(one.eps) for each in found.values() for one in each.values())
    )
    st.markdown(
        f"Share still right, with 95 % intervals, at ε = {radii}, seed 0."
        f" {_compared(found, list(opened))}"
    )


def _evaluations(run: Run) -> dict[str, Evaluation]:
    """The plain evaluation and AutoAttack at the run's ε, the largest n of each, by printed
    name.
    """
    out: dict[str, Evaluation] = {}
    for one in run.evaluations():
        wanted = one.attack.get("key") == "autoattack" or one.printed == "PGD-20"
        if (
            wanted
            and one.eps == run.eps
            and one.seed == 0
            and (one.printed not in out or one.n > out[one.printed].n)
        ):
            out[one.printed] = one
    return out


def _cell(k: int, n: int) -> str:
    low, high = wilson(k, n)
    return f"{100 * k / n:.1f} % [{100 * low:.1f}, {100 * high:.1f}] of {n}"


def _compared(found: Mapping[str, Mapping[str, Evaluation]], names: list[str]) -> str:
    """The second network against the first on the same images: under each attack that both have
    seen, and clean.
    """
    if len(names) < 2:
        return ""
    before, after = found[names[0]], found[names[1]]
    both = [kind for kind in after if kind in before]
    if not both:
        return (
            f"{names[0]} and {names[1]} were not evaluated with the same attack, so they are not"
            " compared."
        )
    said = []
    for kind in both:
        try:
            words = paired(after[kind], before[kind]).sentence(names[1], names[0])
            said.append(words[:1].upper() + words[1:])
        except UserError as error:
            said.append(f"{kind}: {error}")
    kind = max(both, key=lambda one: after[one].n)
    one, other = after[kind], before[kind]
    if one.images == other.images and one.clean_right and other.clean_right:
        mine, theirs = one.right()[0], other.right()[0]
        b, c = int((mine & ~theirs).sum()), int((~mine & theirs).sum())
        low, high = tango(b, c, one.n)
        decided = "" if low > 0 or high < 0 else ": not decided"
        said.append(
            f"Clean accuracy: {100 * (b - c) / one.n:+.1f} points [{100 * low:+.1f},"
            f" {100 * high:+.1f}], n = {one.n}{decided}."
        )
    return " ".join(said)


def curvature(here: Context, chosen: Cast) -> None:
    """How strongly the loss bends at the images; a point chosen is the image of every view."""
    spec = CurvatureSpec()
    cost = "about 15 s"
    found = widgets.measured(chosen.named, spec, "the curvature of up to 50 images", cost)
    if found:
        picked = widgets.draw(figures.curvature, found, Frame("curvature", spec, brush=True))
        widgets.thumbnails(here, picked, "curvature")
        st.markdown(
            "A click on a point shows its image everywhere. Curvature grows with β, so compare"
            " values of one β only."
        )


def weights(chosen: Cast) -> None:
    """The loss around the trained weights."""
    grids = (21, REFINED)
    grid = int(st.selectbox("Grid", grids, format_func=_grid, **linked("weights-grid", 21, grids)))
    write_address()
    spec = WeightSurfaceSpec(grid=grid, refine=grid == REFINED)
    what = f"the surface around the weights, {grid} × {grid} on 128 images"
    found = widgets.measured(chosen.named, spec, what, "about 10 s")
    if found:
        widgets.draw(surface_figures.weight_surface, found, Frame("weight-surface", spec))
        st.markdown(
            "Robust networks need not look flatter here: filter-normalised slices do not decide"
            " robustness."
        )
