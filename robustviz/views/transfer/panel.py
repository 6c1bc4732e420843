"""The panels of the Transfer page: which networks are fooled by images attacked on A, before and
after alignment.
"""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from robustviz.runs import catalogue, folder
from robustviz.terms import term
from robustviz.types import UserError, eps_text
from robustviz.ui import stage, widgets
from robustviz.ui.context import Context
from robustviz.ui.networks import on
from robustviz.ui.shell import linked, write_address
from robustviz.views.transfer import screen_figures as drawn
from robustviz.views.transfer.family import origin
from robustviz.views.transfer.result import Fooled, FooledSpec, Kind, Transfer, TransferSpec

TITLE = "Do images attacked on one network fool another?"
ATTACKS: dict[Kind, str] = {"pgd": "PGD", "mim": "MI", "dim": "DI", "tim": "TI"}
RADII = {"half": "half ε", "whole": "whole ε"}
COUNTS = (100, 300, 1000)
AT_ONCE = 300  # images attacked with 10 steps; a longer measurement needs a click
# a source's copies are named after what they learned
COPIES = {"witness_soft": "aligned", "witness_hard": "hard labels", "label": "true labels"}
DEFENDED = ("pgd_at", "trades")  # the defended targets, besides B
SMALL = ("small_cnn", "small_resnet", "tiny_vit")  # the others are attacked only after a click
MOST = 6  # targets at most


@dataclass(frozen=True)
class Choice:
    """The matrix's settings: the attack, half or whole ε, the number of images, steps and seed."""

    attack: Kind
    radius: str
    n: int
    steps: int
    seed: int

    def of(self, here: Context, targets: list[str]) -> TransferSpec:
        """The spec of this attack with these targets, at A's ε (its data's default ε if A was
        trained in l2) or half of it.
        """
        eps = catalogue.radius(folder.open_model(here.a)) * (1 if self.radius == "whole" else 0.5)
        return TransferSpec(",".join(targets), self.attack, eps, self.steps, self.n, self.seed)


@dataclass(frozen=True)
class First:
    """The first screen's settings: the attack and the seed of its noise."""

    attack: Kind
    seed: int


def settings() -> First:
    """Draw the first screen's settings and return what the user chose."""
    attack = st.segmented_control(
        "Attack",
        list(ATTACKS),
        required=True,
        format_func=ATTACKS.__getitem__,
        help=term("mi"),
        **linked("fooled-attack", "pgd", ATTACKS),
    )
    seed = st.number_input(
        "Seed of the noise", 0, 9999, help=term("seed"), **linked("fooled-seed", 0, range(10_000))
    )
    write_address()  # here too: a fragment's rerun does not reach the page's end
    return First(attack, int(seed))


def asked(here: Context, chosen: First) -> tuple[str, FooledSpec]:
    """The id of the run to measure, and the spec. The run is A or, if A is an aligned copy whose
    source is on this computer, that source. The spec names A and B as targets if they are not
    shipped; shipped networks are targets without being named.
    """
    every = on(here.data)
    before = next(iter(origin(every[here.a])), "")
    root = before if before in every else here.a
    also = [run for run in (here.a, here.b) if run not in ("", root) and not every[run].shipped]
    return root, FooledSpec(",".join(dict.fromkeys(also)), chosen.attack, seed=chosen.seed)


def first(here: Context, chosen: First, row: DeltaGenerator) -> Fooled | None:
    """Draw the first screen: which networks are fooled by images attacked on A; return what was
    measured, or None if it could not be. `row`: the container for the *Take home* menu.
    """
    root, spec = asked(here, chosen)
    cost = "" if folder.open_model(root).architecture in SMALL else "some minutes"
    found = widgets.measured({"A": root}, spec, "whom the images fool", cost).get("A")
    if found is not None:
        screen = drawn.screen(found, here.a, bars(here, found))
        stage.show("transfer", screen)
        with row:
            widgets.take_home("transfer", TITLE, screen, {"": found}, spec)
    return found


def bars(here: Context, found: Fooled) -> list[drawn.Target]:
    """The networks that get a bar on the first screen; B has the name that it has on the page."""
    named = {run_id: name for name, run_id in widgets.names(here).items()}
    return drawn.targets(found, here.b, named.get(here.b, "B"))


def aligned(here: Context, chosen: First, found: Fooled) -> None:
    """Draw by how much more often each target is fooled after model alignment, and after the two
    control trainings, on the images of the first screen.
    """
    from robustviz.views.transfer import figures

    with widgets.place():
        widgets.draw(
            figures.alignment,
            found,
            widgets.Frame("alignment", asked(here, chosen)[1]),
            b=here.b,
            b_name=bars(here, found)[-1].name,
        )


def controls() -> Choice:
    """Draw the matrix's controls and return what the user chose."""
    a, b, c = st.columns([2, 1, 1], vertical_alignment="bottom")
    left, right = st.expander("More settings", icon=":material/settings:").columns(2)
    choice = Choice(
        attack=a.segmented_control(
            "Attack",
            list(ATTACKS),
            required=True,
            format_func=ATTACKS.__getitem__,
            help=term("mi"),
            **linked("transfer-attack", "pgd", ATTACKS),
        ),
        radius=b.segmented_control(
            "Radius",
            list(RADII),
            required=True,
            format_func=RADII.__getitem__,
            help=term("epsilon"),
            **linked("radius", "half", RADII),
        ),
        n=c.segmented_control(
            "Test images", COUNTS, required=True, **linked("transfer-n", AT_ONCE, COUNTS)
        ),
        steps=left.number_input(
            "Steps, of ε/4 each",
            1,
            100,
            help=term("pgd"),
            **linked("transfer-steps", 10, range(1, 101)),
        ),
        seed=right.number_input(
            "Seed of the attack's noise",
            0,
            9999,
            help=term("seed"),
            **linked("transfer-seed", 0, range(10_000)),
        ),
    )
    write_address()
    return choice


def sources(here: Context) -> dict[str, str]:
    """The networks on which the images are attacked, as run ids by their names on the page: A and
    its family. A family is a source and the copies of it that were aligned to one witness. If A has
    no family, another family on this data is listed with it, if there is one.
    """
    every = on(here.data)
    a = every[here.a]
    copies = [run for run in every.values() if run.method_key == "model_alignment"]
    own = (run for run in copies if a.id in (run.id, origin(run)[0]))
    shared = next(map(origin, [*own, *copies]), ())
    family = ({"before": shared[0]} if shared and shared[0] in every else {}) | {
        name: run.id
        for target, name in COPIES.items()
        for run in sorted(copies, key=lambda run: run.id != a.id)[::-1]  # A is last and so wins
        if origin(run) == shared and run.info["method"].get("target") == target
    }
    letters = {here.a: "A"} | ({here.b: "B"} if here.b in family.values() else {})
    out = {
        f"{letters[run_id]} {name}" if run_id in letters else name: run_id
        for name, run_id in family.items()
    }
    return out if a.id in out.values() else {next(iter(widgets.names(here))): a.id} | out


def targets(here: Context, made_on: dict[str, str]) -> list[str]:
    """Run ids of the networks that are shown the images and had no part in making them, at most
    six: B, then the networks of standard training, then one network of each method in `DEFENDED`.
    Raises UserError if there is none.
    """
    every = on(here.data)
    seen = {
        *made_on.values(),
        *(role for run_id in made_on.values() for role in origin(every[run_id])),
    }
    free = {run_id: run for run_id, run in every.items() if run_id not in seen}
    besides_b = {
        method: [
            run_id for run_id in free if run_id != here.b and free[run_id].method_key == method
        ]
        for method in ("standard", *DEFENDED)
    }
    shown = [
        *(run_id for run_id in free if run_id == here.b),
        *besides_b["standard"],
        *(run_id for method in DEFENDED for run_id in besides_b[method][:1]),
    ]
    if not shown:
        raise UserError(
            "No other network on this data could be a target: choose another network B, or"
            " train one on the Train page."
        )
    return shown[:MOST]


def measured(here: Context, chosen: Choice) -> tuple[dict[str, Transfer], TransferSpec]:
    """Measure how often images attacked on each source fool the targets; a long measurement starts
    only after a click. Returns a result per source, by the source's name on the page, and the spec;
    sources without a result are missing. Raises UserError if there is no target.
    """
    made_on = sources(here)
    spec = chosen.of(here, targets(here, made_on))
    seconds = max(5, round(2.5 * chosen.n * chosen.steps / 2000, -1))
    cost = f"about {seconds:.0f} s" if chosen.n * chosen.steps > AT_ONCE * 10 else ""
    return widgets.measured(made_on, spec, f"transfer on {chosen.n} images", cost), spec


def matrices(here: Context, chosen: Choice) -> None:
    """Draw the matrix of transfer errors, what alignment and its controls change, and how similar
    the networks' outputs are.
    """
    from robustviz.views.transfer import figures

    with widgets.place():
        found, spec = measured(here, chosen)
        if not found:
            return
        st.subheader("And on images that both networks classify correctly?")
        st.markdown(
            "Here an image counts only if both networks classify it correctly and each is"
            " fooled by its own attack. Half of ε is the paper's choice; at the whole"
            f" {eps_text(catalogue.radius(folder.open_model(here.a)))} more images usually"
            " qualify."
        )
        marked = here.b if here.b in spec.targets.split(",") else ""
        widgets.draw(figures.transfer, found, widgets.Frame("matrix", spec), b=marked)
        st.divider()
        st.subheader("What does alignment change?", help=term("model alignment"))
        aligned = next((name for name in found if name.endswith("aligned")), "")
        if aligned and len(found) > 1:
            st.markdown(
                "The controls are fine-tuned for the same number of epochs, to the witness's"
                " hard labels or to the true labels."
            )
            family = {
                name: result
                for name, result in found.items()
                if name == aligned or name.split()[-1] in ("before", "labels")
            }
            widgets.draw(
                figures.transfer_difference,
                family,
                widgets.Frame("difference", spec),
                of=aligned,
                b=marked,
            )
        else:
            st.info(
                "No aligned copy of this source is trained: train one with Model alignment on the"
                " Train page.",
                icon=":material/info:",
            )
        st.divider()
        st.subheader("How similar are the networks' outputs?", help=term("kl"))
        widgets.draw(
            figures.prediction_kl, found[aligned or next(iter(found))], widgets.Frame("kl", spec)
        )


def study(said: list[str], sure: list[str], command: str) -> None:
    """Draw the findings `said` of the larger study that is shipped, how certain they are (`sure`),
    and the command that prints its tables.
    """
    st.subheader("What does a larger study say?")
    st.markdown("\n".join(f"- {line}" for line in said))
    with st.popover("How sure?", type="tertiary", key="sure-study"):
        st.markdown("\n".join(f"- {line}" for line in sure))
        st.markdown(f"The results are shipped with robustviz; `{command}` prints them again.")
